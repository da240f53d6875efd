"""README.txt of a package for DeepStream: how to run it, and what its network is shown there."""

from __future__ import annotations

from ..bundle import LABELS, Bundle
from ..instructions import heading
from ..preprocessing import Preprocess
from ..runtime.reject import Reject
from ..runtime.scores import MAX_PROBABILITY
from ..text import clean_text
from .made import listed, wrapped
from .place import MARKER
from .whole import ONNX, Whole

FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 4}
"""``scaling-filter``: NvBufSurfTransform_Inter (nvbufsurftransform.h), where 2 is cubic and 4 Lanczos on a GPU."""
FULL_HD = (1920, 1080)
SQUEEZED = """\
Of 453 photos of sea animals that were continued to 16:9, the model that comes
with expertc knew 74 % with the middle cut out, 58 % squeezed, and 38 % with
bars (maintain-aspect-ratio=1)."""
"""benchmarks/frames.py: 334, 261 and 173 of 453, and 347 of the photos themselves; so bars are not what is written."""


def seen(spec: Preprocess, objects_of: int | None) -> tuple[str, list[str]]:
    """How what nvinfer shows the network differs from what it was measured on: in a sentence, and what to do."""
    high, wide = spec.size
    if objects_of is not None:
        said = f"nvinfer squeezes what a detector found into {wide} x {high}; the expert was measured on whole photos."
        return said, []
    width, height = FULL_HD
    if isinstance(spec.resize, int):
        across = down = spec.resize / min(FULL_HD)
    else:
        down, across = spec.resize[0] / height, spec.resize[1] / width
    if spec.resize == spec.size:
        return f"nvinfer squeezes a frame into {wide} x {high}, as was done with the photos it was measured on.", []
    crop = [round(wide / across) & ~1, round(high / down) & ~1]  # NV12 has colours for two by two pixels
    left, top = ((full - part) // 4 * 2 for full, part in zip(FULL_HD, crop, strict=True))
    share = min(1.0, crop[0] * crop[1] / (width * height))
    said = (
        f"nvinfer squeezes the whole frame into {wide} x {high}. In one of {width} x {height} things look "
        f"{wide / (width * across):.2f} times as wide and {high / (height * down):.2f} times as high as in the photos "
        f"that the expert was measured on, of which it sees the middle {share:.0%}."
    )
    if left < 0 or top < 0:
        return said, []
    size = f"width={crop[0]},height={crop[1]}"
    todo = [
        SQUEEZED,
        f"To show it what it was measured on, cut that out before nvstreammux; of {width} x {height}:",
        f"  nvvideoconvert src-crop={left}:{top}:{crop[0]}:{crop[1]} ! video/x-raw(memory:NVMM),{size}",
        f"  nvstreammux {size.replace(',', ' ')}",
    ]
    return said, todo


def readme(
    bundle: Bundle, graph: Whole, config: str, engine: str, reject: Reject | None, objects_of: int | None
) -> str:
    """The text; ``config`` is the configuration's file, ``engine`` what nvinfer compiles."""
    spec, frozen = graph.card.preprocess, (*bundle.controls, *bundle.embedded)
    assert spec is not None  # for_frames
    said, todo = seen(spec, objects_of)
    what = (
        "whole frames" if objects_of is None else f"the objects that the detector with gie-unique-id={objects_of} finds"
    )
    several = (
        "batch-size is best the number of streams."
        if graph.images is None
        else "It takes one frame at a time; built with --batch dynamic it takes those of several streams at once."
    )
    network = "It reads frames as nvinfer scales them, and gives probabilities, which is what nvinfer compares."
    if bundle.preprocess is not None and len(set(bundle.preprocess.std)) > 1:
        network += " nvinfer scales all channels alike: by what they differ the graph itself multiplies."
    if frozen:
        named = ", ".join(clean_text(control.name) for control in frozen)
        network += f" Nothing but frames is fed: {named} are constants."
    answer = "The best class is attached if its probability is above classifier-threshold"
    answer += "; at 0 that is always so, as with expertc predict." if reject is None else "."
    if reject is not None and reject.score == MAX_PROBABILITY:
        answer += " It is the one that the bundle was calibrated for."
    elif reject is not None:
        answer += (
            f" A frame that shows none of the classes ({reject.score} below {reject.threshold:.4g}, which the bundle "
            "was calibrated for) has no probability but 0, so nothing is attached."
        )
    sharp = (
        f"It was measured with photos that Pillow has scaled ({spec.interpolation}), which averages what it makes "
        f"smaller; scaling-filter={FILTERS[spec.interpolation]} is the same curve without that."
    )
    return "\n".join([
        heading(graph.card),
        f"For DeepStream: one nvinfer element that classifies {what}.",
        "",
        "Files",
        *listed({
            config: "how nvinfer runs it; the paths in it are relative to it",
            ONNX: "the network, from frames to probabilities",
            LABELS: "the classes in one line, parted by ';'",
            MARKER: "the bundle that it was made from, SHA-256 of every file",
        }),
        "",
        "Run it",
        f"  nvinfer config-file-path={config}",
        *wrapped(f"The first start compiles the network to {engine} beside it, which takes minutes; later ones find "
                 f"it. {several}"),
        "",
        "The network",
        *wrapped(network),
        "",
        "What it sees",
        *wrapped(said),
        *(f"  {line}" for text in todo for line in text.splitlines()),
        *wrapped(sharp),
        "",
        "What it says",
        *wrapped(answer),
        "",
    ])  # fmt: skip
