"""The bundled model's sharks and rays in int8, on real photos."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from expertc.backends.cpu import open_session
from expertc.backends.processor import saturates
from expertc.evaluate.calibration import calibration
from expertc.graph import to_bytes, with_batch
from expertc.observe import observe
from expertc.selection import resolve
from expertc.source import open_source
from expertc.surgery.fold import Fold
from expertc.surgery.prune import prune
from expertc.surgery.quantise import ONNXRUNTIME, TENSORRT, Quantise

one_thread = partial(open_session, threads=1)


def test_the_bundled_model_decides_in_int8_as_it_did(data_dir: Path) -> None:
    """Nearly always, in the dialects of both runtimes; a quarter of the bytes where the weights are int8."""
    source = open_source()
    cut = prune(source.model, source.card, resolve(source.card.taxonomy, "sharks,rays").indices)
    expert, _ = Fold().run(with_batch(cut.model, 1))
    assert cut.card.preprocess is not None
    photos = calibration(data_dir / "sea-animals-128", cut.card.preprocess, cut.card.classes,
                         taxonomy=source.card.taxonomy, most=72)  # fmt: skip
    ranges = observe(expert, [photos.observed[:12]], open_session=one_thread)
    plain = to_bytes(expert)

    def decisions(model: bytes) -> np.ndarray:
        session = one_thread(model, optimise=True)
        return np.array([session.run(photo[None])["logits"].argmax() for photo in photos.judged])

    expected = decisions(plain)
    assert set(expected.tolist()) == {0, 1}
    for flavour in (replace(ONNXRUNTIME, reduce_range=saturates()), TENSORRT):
        made = to_bytes(Quantise(ranges, flavour).run(expert)[0])
        assert (decisions(made) == expected).mean() >= 0.9
        assert (len(made) < len(plain) / 3) is not flavour.paired
