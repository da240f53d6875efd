"""The expert: a bundle opened on this machine, asked about images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..backends import Session, portions
from ..backends.staged import on_processor
from ..bundle import Bundle, open_bundle
from ..card import KINDS, Preprocess
from ..controls import Control, Setting, settle
from ..errors import BundleError, DataError, UsageError
from ..exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exits
from ..taxonomy import Taxonomy, clean_text
from .exits import COARSELY, FINE, Answered, Chosen
from .images import Source, load_image, source_name
from .paths import Path as Steps
from .paths import Paths, read_paths
from .preprocess import apply
from .reject import Reject, read_reject
from .scores import probabilities

_NO_NUMBER = "The model gives no number for this image (NaN or infinity)."


@dataclass(frozen=True)
class Prediction:
    """What the expert says about one image.

    ``image`` is its path as it was given (clean it before printing), or ``#i`` for the i-th of the call. ``labels`` are
    ``(label, probability)``, best first; with ``raw`` there is one class only, which cannot be told from others, and
    its number is the model's raw score. ``none_of_these`` says that the photo does not look like any of the classes,
    None that the bundle has no threshold for that (``expertc calibrate`` finds one); the labels are then what comes
    nearest. ``paths``, one for each label if they were asked for, say how likely the routers on the way to it found its
    categories. Of a network with early exits ``exit`` is the number of the one that answered, from 1, and
    ``granularity`` "fine", or "coarse" where the labels are categories. With ``error``, one sentence, there are no
    labels.
    """

    image: str
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    raw: bool = False
    none_of_these: bool | None = None
    paths: tuple[Steps, ...] = ()
    granularity: str | None = None
    exit: int | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types: ``image`` and ``error`` or ``predictions``, with ``none_of_these`` if that is known."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        number = "score" if self.raw else "probability"
        judged: dict[str, Any] = {} if self.none_of_these is None else {"none_of_these": self.none_of_these}
        if self.exit is not None:
            judged |= {"granularity": self.granularity, "exit": self.exit}
        predictions: list[dict[str, Any]] = [{"label": label, number: value} for label, value in self.labels]
        for prediction, path in zip(predictions, self.paths, strict=False):
            prediction["path"] = [{"name": name, "probability": chance} for name, chance in path]
        return {"image": self.image, "predictions": predictions, **judged}


class Expert:
    """An open bundle. Use ``Expert.open``; close it, or use it in a ``with`` statement.

    ``labels`` name the classes in output order; ``preprocess`` is None for a bundle that does not say how images become
    tensors (``scores`` works, ``predict`` does not). ``controls`` are the model's inputs beside the image, with their
    defaults; what a call says of them, ``{"gain": {"sharks": 1.8}}``, holds for that call. ``kind`` is that of the
    output (``card.KINDS``); ``reject`` is when a photo is none of the classes, found with the controls' defaults;
    ``paths`` are the routers' output, of a tree of classifiers; ``exits`` the early ones of a network with such, which
    takes one decision for all images of a call. ``notices`` say what a person should know about where it runs, in
    sentences.
    """

    def __init__(
        self,
        session: Session,
        labels: tuple[str, ...],
        preprocess: Preprocess | None,
        output: str,
        kind: str,
        controls: tuple[Control, ...] = (),
        reject: Reject | None = None,
        paths: Paths | None = None,
        notices: tuple[str, ...] = (),
        exits: Exits | None = None,
    ) -> None:
        self.notices = notices
        self.labels, self.preprocess, self.controls = labels, preprocess, controls
        self.kind, self.reject, self.paths, self.exits = kind, reject, paths, exits
        self._session, self._output = session, output
        self._widths: dict[str, tuple[int, ...]] = {output: (len(labels),)}
        if paths is not None:
            self._widths[paths.name] = (len(paths.columns),)
        if exits is not None:
            self._widths |= {COARSE: (len(exits.categories),)} if exits.categories else {}
            self._widths |= {GRANULARITY: (), EXIT: ()}
        self._batch = session.input_shape[0]  # None: any number of images at once

    @classmethod
    def open(
        cls,
        path: str | Path | Bundle,
        *,
        threads: int | None = None,
        strict: bool = False,
        trust_plan: bool = False,
        told: Callable[[Any], None] = lambda progress: None,
    ) -> Expert:
        """Open a bundle, its directory or one opened already.

        One for TensorRT runs the plan that this machine compiled, and is compiled first if there is none, which takes
        minutes, once; where that cannot be it runs on the processor, and ``notices`` say why.

        Args:
            path: the bundle.
            threads: bounds the CPU threads of one call (default: the backend's choice).
            strict: refuse to run anywhere but where it was built for.
            trust_plan: open the plan in the bundle, which is native code of whoever compiled it.
            told: hears how far compiling is (``backends.tensorrt.process.Progress``).

        Raises ``BundleError`` if the bundle is damaged or contradicts itself, ``ModelError`` or ``UnsupportedError`` if
        its model does not run here, ``DeviceMismatchError`` if ``strict`` or a trusted plan is for another machine.
        """
        bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
        shown = clean_text(str(bundle.path))
        output = bundle.manifest.get("output")
        if not isinstance(output, dict) or output.get("kind") not in KINDS or output.get("axis") != 1:
            raise BundleError(f"The manifest of '{shown}' does not describe an output.", "Build it again.")
        reject, paths, exits = read_reject(bundle, output["kind"]), read_paths(bundle), bundle.exits
        notices: tuple[str, ...] = ()
        if bundle.backend == "tensorrt":
            from ..engines import open_anywhere

            session, notices = open_anywhere(bundle, threads=threads, strict=strict, trust_plan=trust_plan, told=told)
        else:
            session = on_processor(bundle, threads)
        name = output.get("name") if exits is None else SCORES
        problem = _contradiction(session, bundle, name, paths, exits)
        if problem:
            session.close()
            raise BundleError(f"The bundle '{shown}' contradicts itself: {problem}.", "Build it again.")
        labels, kind = bundle.labels, output["kind"]
        return cls(session, labels, bundle.preprocess, str(name), kind, bundle.controls, reject, paths, notices, exits)

    def __enter__(self) -> Expert:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def session(self) -> Session:
        """The open model, to be asked about itself."""
        return self._session

    def close(self) -> None:
        """Let go of the model; the expert cannot be asked any more."""
        self._session.close()

    def scores(self, batch: np.ndarray, controls: Mapping[str, Setting] | None = None) -> np.ndarray:
        """The model's raw numbers ``[N, classes]`` for tensors as ``preprocess`` makes them, ``[N, ...]``, any N >= 1.

        Raises ``BundleError`` if the model gives another number of scores than the bundle has labels, ``UsageError``
        and ``SelectionError`` for controls, and classes of them, that it does not have.
        """
        return self._outputs(batch, self._settled(controls))[self._output]

    def answered(self, batch: np.ndarray, controls: Mapping[str, Setting] | None = None) -> Answered:
        """What a network with early exits answers to such tensors, taking one decision for all images of a call.

        A call takes as many as the model is made for, otherwise all N. Raises what ``scores`` raises.
        """
        if self.exits is None:
            raise UsageError("This expert has no early exits.", "Ask for its scores.")
        found = self._outputs(batch, self._settled(controls))
        return Answered.of(found[self._output], found)

    def set_exits(self, chosen: Chosen) -> Mapping[str, Setting]:
        """The controls by which the exits are as ``chosen``. Raises ``UsageError`` as ``Chosen.settings`` does."""
        return chosen.settings(self.controls, self.exits)

    def _settled(self, controls: Mapping[str, Setting] | None) -> Mapping[str, tuple[float, ...]]:
        """The values of all controls."""
        if not controls:
            return {control.name: control.default for control in self.controls}
        if not self.controls:
            raise UsageError(
                "This expert has no gain or other control.", "Ask without; gains that were embedded are fixed."
            )
        return settle(self.controls, Taxonomy.flat(self.labels), controls)

    def _outputs(self, batch: np.ndarray, controls: Mapping[str, tuple[float, ...]]) -> dict[str, np.ndarray]:
        """Everything that the model says of ``batch``, in calls of the size that it is made for."""
        size = self._batch
        if size is None or size == len(batch):
            return self._run(batch, controls)
        parts = [
            {name: values[:own] for name, values in self._run(part, controls).items()}
            for part, own in portions(batch, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._widths}

    def predict(
        self,
        images: Source | Iterable[Source],
        top: int | None = None,
        batch: int = 1,
        controls: Mapping[str, Setting] | None = None,
        *,
        explain: bool = False,
    ) -> list[Prediction]:
        """One prediction per image, in order: ``top`` labels of each (default: all), ``batch`` images per model call
        (where the model fixes that number, its own); with ``explain`` the path to each label.

        An image is whatever ``load_image`` takes; kinds may be mixed. An image that cannot be read, or for which the
        model gives no numbers, yields a prediction with ``error`` while the others go on. Raises ``UsageError`` for
        ``top`` or ``batch`` below 1, and for ``explain`` where the expert has no routers; ``BundleError`` for a bundle
        without preprocessing, and what ``scores`` raises for ``controls``.
        """
        return list(self.iter_predict(images, top, batch, controls, explain=explain))

    def iter_predict(
        self,
        images: Source | Iterable[Source],
        top: int | None = None,
        batch: int = 1,
        controls: Mapping[str, Setting] | None = None,
        *,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """Like ``predict``, one after another."""
        if batch < 1 or (top is not None and top < 1):
            raise UsageError(f"{'The batch size' if batch < 1 else 'top'} must be at least 1.", "Give 1 or more.")
        if self.preprocess is None:
            raise BundleError(
                "The bundle does not say how images become tensors.", "Build it with preprocessing, or use scores()."
            )
        if explain and self.paths is None:
            raise UsageError(
                "This expert has no routers whose steps could be shown.", "Ask without; a HierNet's experts have them."
            )
        values, paths = self._settled(controls), self.paths if explain else None
        return self._predict(enumerate(_several(images)), self.preprocess, top, self._batch or batch, values, paths)

    def _predict(
        self,
        images: Iterator[tuple[int, Source]],
        spec: Preprocess,
        top: int | None,
        batch: int,
        controls: Mapping[str, tuple[float, ...]],
        paths: Paths | None,
    ) -> Iterator[Prediction]:
        while chunk := list(islice(images, batch)):
            names = [source_name(source) or f"#{number}" for number, source in chunk]
            made = [_tensor(source, name, spec) for name, (_, source) in zip(names, chunk, strict=True)]
            tensors = [tensor for tensor in made if isinstance(tensor, np.ndarray)]
            told: Iterator[dict[str, Any]] = iter(())
            if tensors:
                told = self._told(self._outputs(np.stack(tensors), controls), top, paths)
            for name, tensor in zip(names, made, strict=True):
                if isinstance(tensor, DataError):
                    yield Prediction(name, error=tensor.message)
                else:
                    yield Prediction(name, **next(told))

    def _told(self, found: Mapping[str, np.ndarray], top: int | None, paths: Paths | None) -> Iterator[dict[str, Any]]:
        """What a ``Prediction`` says of each image, from the model's outputs."""
        places = {} if paths is None else {label: index for index, label in enumerate(self.labels)}
        answered = None if self.exits is None else Answered.of(found[self._output], found)
        coarse: list[tuple[tuple[str, float], ...]] = []
        if answered is not None and answered.coarse is not None and self.exits is not None:
            coarse = list(_rank(answered.coarse, self.exits.categories, "logits", top))
        for row, (labels, none) in enumerate(self.answers(found[self._output], top)):
            more: dict[str, Any] = {}
            if answered is not None:
                fine = bool(answered.fine[row])
                more = {"granularity": FINE if fine else COARSELY, "exit": int(answered.exit[row])}
                labels = labels if fine else coarse[row]
            if paths is not None:
                more["paths"] = tuple(paths.to(places[label], found[paths.name][row]) for label, _ in labels)
            raw = len(self.labels) == 1
            yield {"labels": labels, "raw": raw, "none_of_these": none, **more} if labels else {"error": _NO_NUMBER}

    def answers(
        self, scores: np.ndarray, top: int | None = None
    ) -> Iterator[tuple[tuple[tuple[str, float], ...], bool | None]]:
        """For each row of ``scores``, what a ``Prediction`` holds: its ``labels``, () if they are not numbers, and its
        ``none_of_these``."""
        rejected = [None] * len(scores) if self.reject is None else self.reject.rejects(scores, self.kind).tolist()
        return zip(_rank(scores, self.labels, self.kind, top), rejected, strict=True)

    def _run(self, batch: np.ndarray, controls: Mapping[str, tuple[float, ...]]) -> dict[str, np.ndarray]:
        found = self._session.run(batch, controls)
        for name, wanted in self._widths.items():
            if found[name].shape != (len(batch), *wanted):
                what = "labels" if name == self._output else "columns"
                raise BundleError(
                    f"The model gives {name} of shape {list(found[name].shape)}, but the bundle has "
                    f"{wanted[0] if wanted else 'no'} {what}.",
                    "Build it again.",
                )
        if self.exits is not None and not np.isin(found[EXIT], range(1, len(self.exits.exits) + 1)).all():
            raise BundleError("The model names an exit that it does not have.", "Build it again.")
        return {name: found[name] for name in self._widths}


def _rank(
    scores: np.ndarray, labels: tuple[str, ...], kind: str, top: int | None
) -> Iterator[tuple[tuple[str, float], ...]]:
    """Labels and probabilities of each row, best first; empty where the scores are not numbers."""
    values = scores.astype(np.float64) if len(labels) == 1 else probabilities(scores, kind)
    sound = np.isfinite(values).all(axis=1)
    # by score: probabilities of far-off classes may all be 0
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    for row, usable in enumerate(sound.tolist()):
        picked = order[row]
        best = zip(picked.tolist(), values[row, picked].tolist(), strict=True)
        yield tuple((labels[index], value) for index, value in best) if usable else ()


def _tensor(source: Source, name: str, spec: Preprocess) -> np.ndarray | DataError:
    try:
        return apply(load_image(source, name), spec)
    except DataError as error:
        return error


def _several(images: Source | Iterable[Source]) -> Iterable[Source]:
    """One image, given alone, as a list of one."""
    if isinstance(images, (str, Path, bytes, io.BytesIO, Image.Image)):
        return [images]
    return [images] if isinstance(images, np.ndarray) and images.ndim < 4 else images


def _contradiction(session: Session, bundle: Bundle, output: Any, paths: Paths | None, exits: Exits | None) -> str:
    """What the model and the bundle's description of it do not agree about, or ""."""
    spec = bundle.preprocess
    routes = () if paths is None else (paths.name,)
    deciding = () if exits is None else (*([COARSE] if exits.categories else ()), GRANULARITY, EXIT)
    for name in (*routes, output, *deciding):
        if name not in session.outputs:
            return f"the model has no output '{name}'"
    if list(map(_form, session.controls)) != list(map(_form, bundle.controls)):
        return "the model has other controls than its manifest"
    if any(control.per_class and len(control.default) != len(bundle.labels) for control in bundle.controls):
        return "a control has another number of values than there are classes"
    if spec is None:
        return ""
    made = (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)
    reads = session.input_shape[1:]
    if len(reads) != 3 or any(want not in (None, have) for want, have in zip(reads, made, strict=True)):
        return f"the model reads {list(reads)}, its preprocessing makes {list(made)}"
    return ""


def _form(control: Control) -> Control | tuple[str, int]:
    """What of a control is the model's; a calibrated bundle has thresholds of its own."""
    return (control.name, len(control.default)) if control.name in (THRESHOLD, TOLERANCE) else control
