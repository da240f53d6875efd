"""The phases of a prediction: on a clock that only they move, on real photos, and what is said about them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rainbow import photos, rainbow

from expertc import Expert
from expertc.bench import predictions as module
from expertc.bench.phases import END_TO_END, PHASES, Phases
from expertc.bench.predictions import MADE_SIZE, open_expert, read_photos, take_apart
from expertc.errors import BundleError, CardError, DataError
from expertc.measure import TURN, Glance, Summary


class Staged:
    """An expert whose session tells what its device did, and a clock that each phase moves by its own time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float], device: Mapping[str, float]):
        self.now, self.seen = 0.0, list[bytes]()
        self.preprocess = object()
        self.session = SimpleNamespace(timings=lambda: device) if device else object()
        self.scores, self.answers = self.part(seconds["compute"]), self.part(seconds["postprocess"])
        monkeypatch.setattr(module, "load_image", self.part(seconds["decode"], self.seen))
        monkeypatch.setattr(module, "apply", self.part(seconds["preprocess"]))

    def part(self, seconds: float, seen: list[Any] | None = None):
        def call(first: Any, *rest: Any) -> np.ndarray:
            self.now += seconds
            if seen is not None:
                seen.append(first)
            return np.zeros((1, 2))

        return call

    def clock(self) -> int:
        return round(self.now * 1e9)


SECONDS = {"decode": 0.008, "preprocess": 0.004, "compute": 0.016, "postprocess": 0.002}


def test_each_phase_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"H2D Latency": 0.001, "Latency": 0.013, "GPU Compute Time": 0.012, "something else": 1.0}
    expert, looks = Staged(monkeypatch, SECONDS, told), list[Glance]()
    found, complete = take_apart(
        {"a": expert}, [b"one", b"two", b"three"], seconds=12, progress=looks.append, clock=expert.clock
    )  # fmt: skip
    assert complete
    assert {name: found["a"].summaries[name].median for name in PHASES} == pytest.approx(SECONDS)
    assert found["a"].summaries[END_TO_END].median == pytest.approx(0.030)
    assert found["a"].shares == pytest.approx({name: seconds / 0.030 for name, seconds in SECONDS.items()})
    assert {key: summary.median for key, summary in found["a"].device.items()} == {
        "H2D Latency": 0.001, "GPU Compute Time": 0.012, "Latency": 0.013,
    }  # fmt: skip
    counts = [expert.seen.count(photo) for photo in (b"one", b"two", b"three")]
    assert max(counts) - min(counts) <= TURN
    assert looks[-1].recent["a"][0] == pytest.approx(0.030)
    assert looks[-1].calls <= found["a"].summaries["decode"].n == TURN * 80  # 12 s of turns of 5 times 30 ms


def test_photos_are_the_same_for_all_in_a_block(bundle: Path) -> None:
    with Expert.open(bundle) as one, Expert.open(bundle) as other:
        found, _ = take_apart({"one": one, "other": other}, read_photos(None).encoded, seconds=0.3)
    assert found["one"].summaries["decode"].n == found["other"].summaries["decode"].n
    assert not found["one"].device  # a CPU has no copies
    for each in found.values():
        assert sum(each.shares.values()) == pytest.approx(1)
        assert each.summaries["decode"].mean > each.summaries["compute"].mean  # a large photo, a tiny network
        assert any("Decoding and preprocessing take longer" in hint for hint in each.hints("it"))


def summaries(**seconds: float) -> Phases:
    parts = {**SECONDS, **{key: value for key, value in seconds.items() if key in PHASES}}
    made = {name: Summary.of([value] * 20) for name, value in {**parts, END_TO_END: sum(parts.values())}.items()}
    device = {"h2d": "H2D Latency", "d2h": "D2H Latency", "gpu": "GPU Compute Time", "enqueue": "Enqueue Time"}
    return Phases(made, {device[key]: Summary.of([value]) for key, value in seconds.items() if key in device})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({}, []),
        ({"compute": 0.011}, ["Decoding and preprocessing take longer than the model m"]),
        ({"gpu": 0.010, "h2d": 0.006, "d2h": 0.003}, []),
        ({"gpu": 0.010, "h2d": 0.006, "d2h": 0.004}, ["Copies to the device"]),
        ({"gpu": 0.010, "enqueue": 0.0079}, []),
        ({"gpu": 0.010, "enqueue": 0.0081}, ["CUDA graphs"]),
        ({"h2d": 1.0}, []),
    ],
)
def test_hints(seconds: dict[str, float], words: list[str]) -> None:
    hints = [*summaries(**seconds).hints("m")]
    assert len(hints) == len(words)
    assert all(word in hint for word, hint in zip(words, hints, strict=True))


# -- what is measured on -----------------------------------------------------------------------------------------------


def test_the_made_photo_is_like_a_photo() -> None:
    """Its size in bytes is that of photos: from 1 to 4 bits per pixel at this quality; noise has 9, one colour 0.1."""
    made = read_photos(None)
    image = Image.open(io.BytesIO(made.encoded[0]))
    assert (image.format, image.size, image.mode) == ("JPEG", MADE_SIZE, "RGB")
    assert 1 < 8 * len(made.encoded[0]) / (MADE_SIZE[0] * MADE_SIZE[1]) < 4
    assert "made JPEG of 1280 × 720 pixels" in made.what
    assert made == read_photos(None)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", ("reds", "blues"))
    whole = read_photos(folder)
    files = sorted(path.read_bytes() for path in folder.rglob("*.*"))
    assert sorted(whole.encoded) == files
    (folder / "reds" / "broken.jpg").write_bytes(b"nothing")
    assert read_photos(folder).encoded == whole.encoded
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.jpg").write_bytes(b"nothing")
    for name in ("bad", "missing"):
        with pytest.raises(DataError, match="None of the photos"):
            read_photos(tmp_path / name)


def test_packed_photos(data_dir: Path) -> None:
    packed = read_photos(data_dir / "sea-animals-128")
    assert len(packed.encoded) == 64
    assert {Image.open(io.BytesIO(each)).format for each in packed.encoded} == {"JPEG"}


def test_a_bundle_and_a_full_model_answer_as_they_do_elsewhere(full: Path, bundle: Path, tmp_path: Path) -> None:
    photo = next(path for path in photos(tmp_path / "photos", ("reds",)).rglob("*.*"))
    with open_expert(full) as model, open_expert(bundle) as expert, Expert.open(bundle) as same:
        assert model.labels == ("reds", "greens", "blues", "yellows")
        assert model.predict(photo)[0].labels[0][0] == "reds"
        assert expert.predict(photo) == same.predict(photo)


def test_models_that_cannot_predict(tmp_path: Path) -> None:
    (tmp_path / "bare.onnx").write_bytes(rainbow(described=False).bytes())
    with pytest.raises(CardError, match="no model card") as caught:
        open_expert(tmp_path / "bare.onnx")
    assert "--labels" not in caught.value.hint  # which bench does not have
    (tmp_path / "blind.onnx").write_bytes(rainbow(spec=None).bytes())
    with pytest.raises(CardError, match="how images become tensors"):
        open_expert(tmp_path / "blind.onnx")
    with pytest.raises(BundleError):
        open_expert(tmp_path)
