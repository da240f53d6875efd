"""Which form the branches of an expert take: the one asked for, the fastest here, or what its device suggests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .finish import OFF, Finish, candidates
from .graph import Model
from .surgery.prune import Cut
from .targets import Target

if TYPE_CHECKING:
    from .contest import Contest

WIDE = "grouped"
"""The form for a GPU that nobody has measured. Running a hundred small branches one after the other is bound by their
launches, and this form has the fewest kernels; with few branches there is little to win, so those stay apart."""


@dataclass(frozen=True)
class Formed:
    """A finished expert, what was done to it, and how its form was found."""

    model: Model
    finish: Finish
    passes: tuple[str, ...]
    contest: Contest | None = None
    notes: tuple[str, ...] = ()


def formed(cut: Cut, finish: Finish, form: str, target: Target, threads: int | None = None) -> Formed:
    """The expert in ``form``; "auto" is the fastest of all on this machine, or by rule where it is for another device.

    Raises what the passes raise.
    """
    if form != "auto":
        finish = replace(finish, fuse=form)
        return Formed(*_run(finish, cut))
    from .contest import contest, has_siblings, is_worth

    plain, _, passes = _run(replace(finish, opset=None), cut)
    found: Contest | None = None
    notes: tuple[str, ...] = ()
    if not target.is_host:
        chosen, notes = _by_rule(wide=has_siblings(plain))
    else:
        made = candidates(plain) if is_worth(plain) and has_siblings(plain) else {}
        found = contest(OFF, {OFF: plain, **made}, threads=threads) if made else None
        chosen = OFF if found is None else found.chosen
    # From here on as if it had been asked for.
    finish = replace(finish, fuse=chosen)
    if chosen == OFF and finish.opset is None:
        return Formed(plain, finish, passes, found, notes)
    return Formed(*_run(finish, cut), found, notes)


def _by_rule(*, wide: bool) -> tuple[str, tuple[str, ...]]:
    """The form for a device that nothing can be measured on, and what to say about it."""
    if not wide:
        return OFF, ()
    return WIDE, ("The branches were fused by rule, as a GPU suggests: not measured. --fuse off keeps them apart.",)


def _run(finish: Finish, cut: Cut) -> tuple[Model, Finish, tuple[str, ...]]:
    final, passes = finish.run(cut)
    return final, finish, passes
