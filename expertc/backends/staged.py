"""A network with exits that was built in stages, one graph per exit: the same session as the one that holds them all.

A later stage runs only if no earlier exit has answered, wherever the stages run; ``exit_rule.decide`` is the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import MODEL, Bundle
from ..controls import Control
from ..errors import BundleError, ModelError
from ..exit_rule import decide
from ..exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exits
from ..text import shown
from . import Session, Stage


def opened(bundle: Bundle, opens: Callable[[str], Stage]) -> Session:
    """A session over the expert in ``bundle``, or over its stages; ``opens`` opens one of its files by name.

    Raises what that raises, leaving nothing open, ``BundleError`` and ``ModelError`` if the stages do not fit.
    """
    if bundle.exits is None or bundle.exits.driven:
        if len(bundle.stages) > 1:
            raise BundleError(f"The bundle {shown(bundle.path)} has stages, but decides in one.", "Build it again.")
        return opens(MODEL)
    with ExitStack() as undo:
        stages = [undo.enter_context(closing(opens(name))) for name in bundle.stages]
        session = StagedSession(stages, bundle.exits, bundle.controls)
        undo.pop_all()
    return session


def on_processor(bundle: Bundle, threads: int | None = None) -> Session:
    """The expert in ``bundle`` on the processor of this machine. Raises what ``opened`` and ``open_session`` raise."""
    from .cpu import open_session

    return opened(bundle, lambda name: open_session(bundle.file(name), threads=threads, stage=name != MODEL))


class StagedSession:
    """A ``Session`` over the stages of a network, which it closes; ``exits`` are decided by ``controls``' values.

    One decision is made for all images of a run. Raises ``ModelError`` if the stages are not those of the exits.
    """

    def __init__(self, stages: Sequence[Stage], exits: Exits, controls: tuple[Control, ...]) -> None:
        self._stages, self._exits, self.controls = tuple(stages), exits, controls
        first = self._stages[0]
        self.input, self.input_shape, self.classes = first.input, first.input_shape, first.classes
        beside = (COARSE,) if exits.categories else ()
        self.outputs: tuple[str, ...] = (SCORES, *beside, GRANULARITY, EXIT)
        known = {self.input}
        for number, stage in enumerate(self._stages, 1):
            missing = {stage.input, *stage.carried} - known
            known |= set(stage.outputs)
            if missing or number > len(exits.exits) or not known.issuperset(exits.exits[number - 1].names):
                raise ModelError(f"Stage {number} is not one of this network.", "Build the bundle again.")
        if len(self._stages) < len(exits.exits) or (exits.semantic is not None and exits.semantic not in first.outputs):
            raise ModelError("A stage of the network is missing.", "Build the bundle again.")

    def run(self, x: NDArray[Any], controls: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """See ``Session.run``. Raises what the stages raise, ``UsageError`` for settings that are no numbers."""
        settings: dict[str, Any] = {control.name: control.default for control in self.controls} | dict(controls or {})
        thresholds = np.ravel(settings.get(THRESHOLD, self._exits.thresholds)).tolist()
        (tolerance,) = np.ravel(settings.get(TOLERANCE, self._exits.tolerance)).tolist()
        made: dict[str, NDArray[Any]] = {self.input: x}

        def reached(number: int) -> Mapping[str, NDArray[Any]]:
            stage = self._stages[number - 1]
            made.update(stage.run(made[stage.input], {name: made[name] for name in stage.carried}))
            return made

        decision = decide(self._exits, reached, thresholds, tolerance)
        answered, images = self._exits.exits[decision.exit - 1], len(x)
        dtype = made[answered.names[0]].dtype
        coarse = {} if decision.coarse is None else {COARSE: decision.coarse.astype(dtype)}
        sides = {GRANULARITY: np.full(images, int(decision.fine)), EXIT: np.full(images, decision.exit)}
        return {SCORES: decision.scores.astype(dtype), **coarse, **sides}

    def close(self) -> None:
        """Free every stage."""
        for stage in self._stages:
            stage.close()
