"""What nvinfer's squeezing costs: frames of 16:9, shown to the bundled model in three ways.

    python -m benchmarks.frames --data DIR

DIR holds the packed photos (``sea-animals-128``). Every third held-out photo is continued to 16:9 by mirroring both of
its sides. The model classifies the photo as it was measured, the same of the frame (resized, the middle cut out), the
whole frame squeezed to the input's size, which is what DeepStream's nvinfer does by default, and with bars above and
below (``maintain-aspect-ratio=1``).
The counts stand in the README.txt of packages for DeepStream (``expertc/package/deepstream_readme.py``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from expertc.backends import cpu
from expertc.runtime import load_image, open_dataset
from expertc.runtime.preprocess import apply, scaled
from expertc.source import open_source

RESULTS = Path(__file__).parent / "results"
EVERY = 3
"""Of the held-out photos one in three."""


def main() -> None:
    """Count, and write results/frames.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    source = open_source()
    spec = source.card.preprocess
    assert spec is not None
    high, wide = spec.size
    kind = Image.Resampling[spec.interpolation.upper()]

    def squeezed(frame: Image.Image) -> np.ndarray:
        return np.asarray(frame.resize((wide, high), kind))

    def barred(frame: Image.Image) -> np.ndarray:
        height = round(frame.height * wide / frame.width)
        whole = Image.new("RGB", (wide, high))
        whole.paste(frame.resize((wide, height), kind), (0, (high - height) // 2))
        return np.asarray(whole)

    ways: dict[str, Callable[[Image.Image], np.ndarray]] = {
        "the middle of the frame": lambda frame: apply(frame, spec),
        "squeezed": lambda frame: scaled(squeezed(frame)[None], spec)[0],
        "with bars": lambda frame: scaled(barred(frame)[None], spec)[0],
    }
    right, count = {"the photo": 0, **dict.fromkeys(ways, 0)}, 0
    with closing(cpu.open_session(source.runnable)) as session:
        photos = open_dataset(given.data / "sea-animals-128", "val")
        own = [source.card.classes.index(name) if name in source.card.classes else None for name in photos.classes]
        for number in range(0, len(photos), EVERY):
            label = own[photos.label(number)]
            assert label is not None
            photo = load_image(photos.open(number))
            frame = widened(photo)
            shown = {"the photo": apply(photo, spec), **{name: way(frame) for name, way in ways.items()}}
            count += 1
            for name, tensor in shown.items():
                (scores,) = session.run(tensor[None])[source.card.outputs[0].name]
                right[name] += int(np.argmax(scores)) == label
    table = {"photos": count, "right": right}
    (RESULTS / "frames.json").write_text(json.dumps(table, indent=2) + "\n")
    print(json.dumps(table, indent=2))


def widened(photo: Image.Image) -> Image.Image:
    """The photo in the middle of a frame of 16:9 that goes on at both sides, mirrored."""
    pixels = np.asarray(photo)
    more = max(0, (round(photo.height * 16 / 9) - photo.width + 1) // 2)
    return Image.fromarray(np.pad(pixels, ((0, 0), (more, more), (0, 0)), "symmetric"))


if __name__ == "__main__":
    main()
