"""The expert of a bundle as one graph whose only input is the image: what a server of others can be given.

Nobody there knows the defaults of a control (an input beside the image). Triton could leave such an input out where the
graph has an initializer for it, but not of a model that it batches, and one client's gain would be that of all in the
batch; nvinfer feeds frames and nothing else. So they become constants, at what the bundle says they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.cpu import open_session
from ..backends.staged import on_processor
from ..bundle import MODEL, WEIGHTS, Bundle
from ..card import CARD_KEY, Card
from ..controls import Control
from ..driven import frozen
from ..errors import BundleError, ModelError, VerificationError
from ..exits import THRESHOLD, TOLERANCE
from ..graph import DATA_SUFFIX, File, Model, pack, read_model
from ..limits import memory_for
from ..runtime.preprocess import scaled
from ..runtime.scores import probabilities
from ..surgery.embed import Embed
from ..surgery.exits import joined, nested
from ..surgery.outputs import check_card
from ..text import shown

Array = np.ndarray[Any, Any]
Seen = Callable[[Array], Array]
Judged = Callable[[Array, str], Array]

ONNX = "model.onnx"
"""What the graph's file is called in a package, whatever the format; Triton looks for this name."""

CLOSE = 1e-3
"""By how much a probability of a packaged graph may differ from that of the bundle, both with ONNX Runtime. A choice of
ours: ten times what folding may cost, as a graph of halves rounds other numbers if its input is scaled another way."""


@dataclass(frozen=True)
class Whole:
    """A graph with its card; ``own`` says that it is the bundle's file, byte for byte."""

    model: Model
    card: Card
    own: bool

    @property
    def images(self) -> int | None:
        """How many images it takes in one call, None for any number."""
        size = self.model.inputs[self.card.input][0]
        return size if isinstance(size, int) else None


def whole(bundle: Bundle) -> Whole:
    """The bundle's expert as one graph without controls; of several stages, the one graph that decides among them.

    Raises ``BundleError``, ``ModelError`` and ``CardError`` for a bundle that contradicts itself.
    """
    model, *later = (read_model(bundle.file(name)) for name in bundle.stages)
    text = model.metadata.get(CARD_KEY)
    if text is None:
        raise ModelError(f"{MODEL} in {shown(bundle.path)} has no model card.", "Build the bundle again.")
    card = Card.from_json(text)
    controls = {control.name: control.default for control in bundle.controls}  # calibrated, where the card is not
    if later:
        card = frozen(card.with_defaults(controls))
        model, card = nested(joined((model, *later), card), card)
    else:
        check_card(model, card)
        if list(map(_fixed, bundle.controls)) != list(map(_fixed, card.controls)):
            raise _contradiction(bundle, "the model has other controls than its manifest")
        card = card.with_defaults(controls)
    output = card.outputs[0]
    if asdict(output) != bundle.manifest.get("output") or output.axis != 1 or card.preprocess != bundle.preprocess:
        raise _contradiction(bundle, "its manifest is not the card of its model")
    inputs = {card.input, *(control.name for control in card.controls)}
    if model.inputs.keys() != inputs or len(bundle.labels) != len(card.classes):
        raise _contradiction(bundle, "its model has other inputs, or other classes, than it says")
    own = not later and not card.controls
    if card.controls:
        card = frozen(card)
        model, _ = Embed(card).run(model)
        card = replace(card, controls=())
    return Whole(model, card, own)


def files_of(bundle: Bundle, graph: Whole, folder: Path) -> dict[str, File]:
    """The files of the graph, to be copied side by side: the bundle's own, or new ones, large ones in ``folder``."""
    if graph.own:  # weights beside it are found by the name that it calls them
        extra = {WEIGHTS: bundle.file(WEIGHTS)} if WEIGHTS in bundle.manifest["files"] else {}
        return {ONNX: bundle.file(MODEL), **extra}
    place = folder / ONNX
    made = pack(graph.model, place)
    if isinstance(made, bytes):
        return {ONNX: made}
    return {ONNX: place, ONNX + DATA_SUFFIX: place.with_name(ONNX + DATA_SUFFIX)}


def require_agreement(
    bundle: Bundle, graph: Whole, files: Mapping[str, File], seen: Seen, judged: Judged = probabilities
) -> None:
    """Raise ``VerificationError`` unless graph and bundle say the same of a picture of noise, with ONNX Runtime here.

    ``seen`` makes what the graph reads out of RGB bytes ``[N, H, W, 3]``; ``judged`` is what it should make of the
    bundle's scores, given those and their kind. Nothing is done for a bundle that does not say how a picture becomes
    its input.
    """
    spec, output = bundle.preprocess, graph.card.outputs[0]
    if spec is None:
        return
    noise = np.random.default_rng(0).integers(0, 256, (graph.images or 1, *spec.size, 3), dtype=np.uint8)
    told = bundle.manifest["output"]  # which whole has looked at
    values = {control.name: control.default for control in bundle.controls}
    with memory_for(graph.model), ExitStack() as stack:
        packed = stack.enter_context(closing(open_session(files[ONNX])))
        own = stack.enter_context(closing(on_processor(bundle)))
        got = packed.run(seen(noise))[output.name]
        wanted = own.run(scaled(noise, spec), values)[told["name"]]
    apart = np.inf
    if got.shape == wanted.shape:
        apart = np.abs(probabilities(got, output.kind) - judged(wanted, told["kind"])).max()
    if not apart <= CLOSE:  # nor NaN
        raise VerificationError(
            f"The packaged graph gives other probabilities than the bundle: they differ by {apart:.3g}.",
            "Verify the bundle with 'expertc verify'; if it is sound this is a bug: please report it.",
        )


def _fixed(control: Control) -> Control | tuple[str, int]:
    """What of a control is the model's; those of exits are calibrated in a bundle."""
    return (control.name, len(control.default)) if control.name in (THRESHOLD, TOLERANCE) else control


def _contradiction(bundle: Bundle, why: str) -> BundleError:
    return BundleError(f"The bundle {shown(bundle.path)} contradicts itself: {why}.", "Build it again.")
