"""The ladder: structure, raw scores, the optimised final model, decisions on photos, and those in lower precision.

It stops at the first failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from ..backends import OpenSession
from ..card import CARD_KEY, Card
from ..errors import ModelError, UnsupportedError
from ..graph import Dim, File, Model, pack
from ..text import shown
from .certificate import Certificate, Mismatch, Number, Step
from .exits import Driven, Open, answers, forms
from .face import check_card, check_file, read_expert
from .inputs import Inputs
from .lowered import Lowered
from .precision import converted, precision
from .reference import poisoned, whole
from .roads import Road, closed, is_routed, roads
from .running import BATCH, batch_of, distance, rounding, run, short
from .scores import by_class, decisions, monotony, reversals
from .settings import ControlSetting, Values, control_settings
from .structure import Trace, trace
from .views import View, outputs_left, views
from .weights import require_absent

RAW = 1e-5
"""Allowed difference over the largest score where the cut changed the kernel or a softmax was renormalised."""
FINAL = 1e-4
"""The same for the folded model, optimised by the runtime."""
_GRAINS = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}

Array = np.ndarray[Any, Any]


def climb(
    open_session: OpenSession,
    full: Model,
    cut: File,
    final: File,
    *,
    card: Card,
    indices: Sequence[int],
    inputs: Inputs,
    level: str = "fast",
    embedded: bool = False,
    lowered: Lowered | None = None,
    driven: Driven | None = None,
    open_driven: Open | None = None,
    scratch: Path | None = None,
    before_running: Callable[[int], None] = lambda batch: None,
) -> Certificate:
    """Compare an expert for the classes ``indices`` with the full model, step by step.

    Args:
        open_session: runs the models; the full model and the cut without optimisation, the final one with it.
        full: the full model.
        cut: the expert as it was cut, as ONNX; nothing in it is changed but what the cut removed.
        final: the expert after all passes but that to lower precision; if there is none, as it is shipped.
        card: the full model's.
        indices: the selected classes, ascending.
        inputs: what to run them on. If they have pixels, the final model has its preprocessing in it and takes those.
        level: "fast" compares with the nodes that the expert has, "full" with the whole model.
        embedded: whether the final model has the defaults of its controls for constants instead of inputs.
        lowered: the expert in lower precision, if that is what is shipped.
        driven: a network with exits as it is shipped, if not in its plain form, and ``open_driven`` what runs that.
        scratch: a folder for models that are too large to be bytes.
        before_running: is told the most inputs per run, once the structure is found sound and before anything runs.

    Returns a certificate, also of a failure. Raises ``ModelError`` or ``UnsupportedError`` if the full model itself
    does not run.
    """
    steps: list[Step] = []
    settings = control_settings(card, indices, inputs.seed)
    try:
        ladder = _Ladder(
            open_session,
            full,
            read_expert(cut),
            read_expert(final),
            card,
            tuple(indices),
            inputs,
            settings,
            level,
            embedded,
            scratch,
        )
        structure, traced = ladder.structure(cut, final)
        in_lower_precision = None if lowered is None else converted(ladder.final, lowered)
        if driven is not None:
            # As it is read from the file, which holds just what was converted: so the stages were made, too.
            forms(ladder.final if lowered is None else read_expert(lowered.file), driven)
        steps.append(structure)
        before_running(max(ladder.batch, batch_of(ladder.final, card)))
        expected, raw, dull = ladder.raw_scores(traced)
        steps.append(raw)
        optimised, scores = ladder.optimised(final, expected)
        steps.append(optimised)
        if inputs.images:
            steps.append(ladder.decisions(expected, scores))
        if in_lower_precision is not None and lowered is not None:
            steps.append(ladder.precision(in_lower_precision, lowered, scores))
        if driven is not None and open_driven is not None:
            plain, allowed = (final, ladder.near) if lowered is None else (lowered.file, lowered.budget.worst)
            card = Card.from_json(ladder.final.metadata[CARD_KEY])
            steps.append(answers(open_session, open_driven, plain, driven, card=card, x=inputs.fed, allowed=allowed))
    except Mismatch as fault:
        steps.append(Step(fault.step, False, fault.message, fault.numbers))
        return Certificate("failed", level, tuple(steps), inputs.to_mapping())
    return Certificate("uninformative" if dull else "verified", level, tuple(steps), inputs.to_mapping())


@dataclass(frozen=True)
class _Ladder:
    open_session: OpenSession
    full: Model
    cut: Model
    final: Model
    card: Card
    indices: tuple[int, ...]
    inputs: Inputs
    settings: tuple[ControlSetting, ...]
    level: str
    embedded: bool
    scratch: Path | None

    def structure(self, cut: File, final: File) -> tuple[Step, Trace]:
        """(a) Kept nodes come from the original, removed weights are absent, the card is that of the selection."""
        own = self._own
        shipped = replace(own, controls=()) if self.embedded else own
        for model, data in ((self.cut, cut), (self.final, final)):
            check_file(model, data)
        check_card(self.cut, own)
        check_card(self.final, shipped, self.inputs.baked)
        if sorted(self.final.outputs) != sorted(outputs_left(self.full, self.card, own)):
            raise Mismatch("structure", "The final model's outputs are not those of the full model.")
        traced = trace(self.full, self.cut, views(self.full, self.card, own), self.card, self.indices)
        gone = require_absent(self.full, traced.weights, self.cut, self.final)
        numbers: dict[str, Number] = {
            "nodes": len(traced.twins),
            "removed_nodes": len(self.full.nodes) - len(traced.twins),
            "weights": len(traced.weights),
            "sliced_weights": traced.sliced,
            "removed_weights": gone,
        }
        detail = "Every node and weight is the full model's; nothing else is in it."
        return Step("structure", True, detail, numbers), traced

    def raw_scores(self, traced: Trace) -> tuple[Mapping[str, Array], Step, bool]:
        """(b) The cut's scores are the full model's, the runtime optimising neither.

        Returns what every output should show, the step, and whether the scores do not vary.
        """
        left = self._own
        seen, own = views(self.full, self.card, left), views(self.cut, left)
        for there, here in zip(seen, own, strict=True):
            if [node.op for node in there.tail] != [node.op for node in here.tail]:
                raise Mismatch("raw scores", f"The expert does not normalise {shown(here.output)} over its classes.")
        reference, poison = self._reference(traced, [view.tensor for view in seen])
        seen_of_cut = whole(self.cut, [name for view in own for name in (view.tensor, view.output)])
        found = self._scores(self._expert(seen_of_cut, None, "cut.onnx"), self.inputs.values, False, self._fed)
        rows = {view.output: view.rows(reference[view.tensor], self.indices) for view in seen}
        expected = {view.output: view.finish(rows[view.output]) for view in seen}
        for view in own:
            self._require_finite(rows[view.output], found[view.tensor])
        differences = [distance("raw scores", v.output, found[v.tensor], rows[v.output]) for v in own]
        renormalised = [
            distance("raw scores", v.output, found[v.output], expected[v.output]) - rounding(found[v.output])
            for v in own
            if v.tail
        ]
        largest, conditioned = max(differences), max(renormalised, default=0.0)
        allowed = max(RAW if traced.reshaped else 0.0, self._grain)
        numbers: dict[str, Number] = {
            "inputs": len(self.inputs.values),
            "poisoned_tensors": poison,
            "allowed": allowed,
            "largest_difference": short(largest),
        }
        numbers |= {"control_settings": len(self.settings)} if self.card.controls else {}
        numbers |= {"after_softmax": short(conditioned)} if renormalised else {}
        numbers |= self._routed(reference)
        if largest > allowed or conditioned > max(RAW, self._grain):
            far = f"differ by {max(largest, conditioned):.2g} of the largest"
            raise Mismatch("raw scores", f"The expert's scores and the full model's {far}.", numbers)
        equal = "are equal to the full model's, bit for bit" if not largest else "are the full model's but for rounding"
        dull = [sentence for view in seen if (sentence := self._monotony(view, rows[view.output]))]
        sentences = "".join(f"; but {sentence}" for sentence in dict.fromkeys(dull))
        detail = f"The scores {equal}{sentences}.{_elsewhere(numbers)}"
        return expected, Step("raw scores", True, detail, numbers), bool(dull)

    def optimised(self, final: File, expected: Mapping[str, Array]) -> tuple[Step, Mapping[str, Array]]:
        """(c) The final model, optimised, is within ``FINAL`` of it, and in the same order where that is clear."""
        found = self._scores(self._expert(self.final, final, "final.onnx"), self.inputs.fed, True, self._fed_to_final)
        if self.embedded:  # the defaults are all that it knows, and they came first
            expected = {n: values[: len(found[n])] if values.ndim else values for n, values in expected.items()}
        axes = {output.name: output.axis for output in self._own.outputs}
        largest, turned, allowed = 0.0, 0, self.near
        for name, want in expected.items():
            if not np.isfinite(found[name]).all():
                raise Mismatch("optimised", "The final model gives NaN or infinity.")
            largest = max(largest, distance("optimised", name, found[name], want))
            if name in axes:
                got, should = by_class(found[name], axes[name]), by_class(want, axes[name])
                turned += reversals(got, should, allowed * float(np.abs(should).max()))
        numbers: dict[str, Number] = {
            "inputs": len(self.inputs.values),
            "allowed": allowed,
            "largest_difference": short(largest),
            "reordered": turned,
        }
        if largest > allowed:
            detail = f"The final model's scores differ by {largest:.2g} of the largest."
            raise Mismatch("optimised", detail, numbers)
        if turned:
            raise Mismatch("optimised", f"The final model ranks the classes of {turned} inputs otherwise.", numbers)
        detail = "The final model, optimised by the runtime, gives the same scores but for rounding, in the same order."
        return Step("optimised", True, detail, numbers), {name: self._freely(values) for name, values in found.items()}

    def decisions(self, expected: Mapping[str, Array], found: Mapping[str, Array]) -> Step:
        """(d) On photos, the final model decides as the full model does among the selected classes."""
        output, count = self._own.outputs[0], self.inputs.count
        want, got = (by_class(side[output.name][:count], output.axis) for side in (expected, found))
        wrong, close = decisions(got, want, self.near * float(np.abs(want).max()))
        numbers: dict[str, Number] = {"images": count, "agreed": len(want) - wrong - close, "undecided": close}
        if wrong:
            detail = f"The expert decides otherwise than the full model on {wrong} of {count} images."
            raise Mismatch("decisions", detail, numbers)
        detail = f"On {len(want) - close} of {len(want)} images the expert decides as the full model"
        return Step("decisions", True, f"{detail}{'; the others are ties' if close else ''}.", numbers)

    def precision(self, model: Model, lowered: Lowered, found: Mapping[str, Array]) -> Step:
        """(e) In lower precision the expert decides as it does in single precision."""
        own = self._own
        return precision(
            self.open_session,
            model,
            lowered,
            found,
            card=own,
            inputs=self.inputs,
            settings=self._fed_to_final,
            scratch=self.scratch,
        )

    # -- running -------------------------------------------------------------------------------------------------------

    @property
    def near(self) -> float:
        """How far the final model's scores may be off, over the largest."""
        return max(FINAL, 4 * self._grain)

    @cached_property
    def _own(self) -> Card:
        """The expert's card."""
        return self.card.restrict(self.indices)

    @property
    def _grain(self) -> float:
        """The rounding of the coarsest type that the full model computes in, relative; 0 for single precision.

        ONNX Runtime's CPU computes half precision in single and rounds where operators meet, so a cut, which lets other
        operators meet, changes where it rounds, optimised or not.
        """
        return max((_GRAINS.get(kind, 0.0) for kind in self.full.types.values()), default=0.0)

    @property
    def batch(self) -> int:
        """Inputs per run of the full model."""
        return batch_of(self.full, self.card)

    @property
    def _fed(self) -> tuple[Values, ...]:
        """What an expert's controls are set to, in turn."""
        return tuple(setting.expert for setting in self.settings)

    @property
    def _fed_to_final(self) -> tuple[Values, ...]:
        return ({},) if self.embedded else self._fed

    def _reference(self, traced: Trace, tensors: Sequence[str]) -> tuple[dict[str, Array], int]:
        x = self.inputs.values
        poison = 0
        if self.level == "full":
            model = whole(self.full, tensors)
        else:
            declared = self.full.inputs[self.card.input]
            sizes: dict[Dim, int] = {
                dim: n for dim, n in zip(declared, (self.batch, *x.shape[1:]), strict=False) if isinstance(dim, str)
            }
            made = poisoned(self.full, traced.twins, tensors, sizes, traced.unread)
            poison, model = made.poisoned, made.model
        variants = [closed(model, self.card, road) for road in self._roads] or [model]
        controls = [setting.full for setting in self.settings]
        parts = [self._run(file, x, False, controls) for file in self._files(variants, "reference.onnx")]
        return _joined(parts), poison

    def _expert(self, model: Model, shipped: File | None, name: str) -> Iterator[File]:
        """The expert as it is, in the file ``shipped`` if there is one, and with each of its roads as the only one.

        One with its controls embedded, of which only the defaults can be compared, only as it is.
        """
        own = self._own
        if shipped is not None:
            yield shipped
        variants = [] if shipped is not None else [model]
        variants += [] if shipped is not None and self.embedded else [closed(model, own, r) for r in self._roads[1:]]
        yield from self._files(variants, name)

    def _files(self, models: Iterable[Model], name: str) -> Iterator[File]:
        """Each packed, one after another in the same place."""
        for model in models:
            yield pack(model, None if self.scratch is None else self.scratch / name)

    def _scores(self, models: Iterable[File], x: Array, optimise: bool, settings: Sequence[Values]) -> dict[str, Array]:
        """The expert's outputs, of all ``models`` one after another; that one does not run is a mismatch."""
        step = "optimised" if optimise else "raw scores"
        try:
            return _joined([self._run(model, x, optimise, settings) for model in models])
        except (ModelError, UnsupportedError) as error:
            raise Mismatch(step, f"The expert does not run: {error.message}") from error

    def _run(self, model: File, x: Array, optimise: bool, settings: Sequence[Values]) -> dict[str, Array]:
        with closing(self.open_session(model, optimise=optimise)) as session:
            return run(session.run, session.input_shape[0] or BATCH, x, settings)

    # -- routes --------------------------------------------------------------------------------------------------------

    @property
    def _roads(self) -> tuple[Road, ...]:
        """The roads that are looked at, of a routed model: all of the expert's first, and then each alone."""
        return roads(self.card, self.indices) if is_routed(self.full, self.card) else ()

    def _freely(self, values: Array) -> Array:
        """Of the outputs for all roads one after another, those where the expert chose for itself."""
        return values[: len(values) // len(self._roads)] if self._roads and values.ndim else values

    def _routed(self, reference: Mapping[str, Array]) -> dict[str, Number]:
        """How many roads there are, and how many inputs the full model sends down one that the expert has not."""
        routes = self.card.routes
        if routes is None or not self._roads:
            return {}
        kept = self._roads[0]
        taken = [routes.likeliest(self.card.taxonomy, row) for row in reference[routes.name][: len(self.inputs.values)]]
        elsewhere = sum(any(routes.columns[at] not in kept for at in columns) for columns in taken)
        return {"roads": max(1, len(self._roads) - 1), "routed_elsewhere": elsewhere}

    def _require_finite(self, reference: Array, found: Array) -> None:
        if np.isfinite(reference).all():
            if not np.isfinite(found).all():
                raise Mismatch("raw scores", "The expert gives NaN or infinity where the full model does not.")
            return
        if self.level == "fast" and np.isfinite(found).all():
            detail = "Something that the selected classes depend on was cut off: without it the full model gives NaN."
            raise Mismatch("raw scores", detail)
        raise Mismatch("raw scores", "The full model itself gives NaN or infinity for the selected classes.")

    def _monotony(self, view: View, rows: Array) -> str:
        """A clause that says how the scores do not vary, "" if they do; an output without classes may be constant."""
        if view.axis is None:
            return ""
        # A score that only the controls move says nothing about images.
        freely = self._freely(rows)
        row, why = monotony(by_class(freely[: len(freely) // len(self.settings)], view.axis), RAW)
        if not why:
            return ""
        return (
            f"the scores {why}" if row is None else f"the score of {shown(self.card.classes[self.indices[row]])} {why}"
        )


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The outputs of several runs one after another."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _elsewhere(numbers: Mapping[str, Number]) -> str:
    """A sentence about inputs that the full model sends where the expert has nothing."""
    if not numbers.get("routed_elsewhere"):
        return ""
    return (
        f" The full model sends {numbers['routed_elsewhere']} of {numbers['inputs']} inputs to branches that are gone;"
        " there both choose among those that are left."
    )
