"""Every transfer rule is broken, one way at a time, and the laws must notice.

A mutation wraps a rule. That it is noticed means nothing if it changed nothing, so each records whether an answer or a
node came out differently; and each case is right as long as its rule is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as runtime
import pytest
from laws import check
from networks import card, cut, operators
from one_of_each import CLASS_SOFTMAX, Case
from one_of_each_layout import ALL

from expertc.card import Output
from expertc.errors import ExpertcError
from expertc.graph import Shape, Tensor, Variable
from expertc.surgery import rules, sweep
from expertc.surgery.demand import Demand, demand
from expertc.surgery.site import Answer, Draft, Rule, Site, Wanted, everyone, unchanged

NEVER_CUT = {"NonZero", "Unique", "Loop", "Scan", "Size"}
"""Operators that need everything and whose results have no axis of classes."""

NEVER_WRITTEN = {"Shape"}
"""A Shape that is known is read off the graph input instead; its own ``write`` serves what a loop captures by name."""

NOTICED: tuple[type[BaseException], ...] = (
    AssertionError, ExpertcError, IndexError, KeyError, TypeError, ValueError, RuntimeError,
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError,
    *(found for found in vars(runtime).values() if isinstance(found, type) and issubclass(found, Exception)),
)  # fmt: skip
"""How a broken cut shows: a law fails, the cut contradicts itself, or the expert does not run."""


# -- what a case must keep ---------------------------------------------------------------------------------------------


def hold_laws(case: Case) -> None:
    """The laws of the cut, and an expert that is as small as the network of the classes it holds."""
    whole = card(6, Output("scores", case.kind))
    full, alone = case.net().bytes(), case.net(case.held).bytes()
    # The size first: a kernel that gets tensors that do not fit each other may crash the process.
    expert, done = cut(full, whole, case.keep)
    assert elements(expert) == elements(alone)
    assert len(operators(expert)) <= len(operators(alone)) + case.spare
    assert not done.stopped or case.held != case.keep
    check(full, whole, case.keep, exact=False, alive=False, judge=False)


def elements(model: bytes) -> Counter[str]:
    """How many numbers a network holds, by type; positions and sizes do not count, nor do lone numbers."""
    found: Counter[str] = Counter()
    for values in all_weights(model):
        if values.dtype != np.int64 and values.ndim:
            found[str(values.dtype)] += values.size
    return found


def all_weights(model: bytes) -> list[np.ndarray[Any, Any]]:
    """The initializers of the graph and of its subgraphs."""
    found, stack = [], [onnx.load_from_string(model).graph]
    while stack:
        graph = stack.pop()
        found += [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        stack += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found


# -- mutations ---------------------------------------------------------------------------------------------------------


Ask = Callable[[Site, Wanted, Answer], Answer]


def each_ask(change: Callable[[Demand], Demand | None]) -> Ask:
    """A mutation of what is asked of the inputs, one by one."""
    return lambda site, wanted, answer: answer._replace(
        asks=tuple(None if ask is None else change(ask) for ask in answer.asks)
    )


def shifted(ask: Demand) -> Demand | None:
    """The neighbours of what is needed."""
    return demand(ask.who, {axis: np.roll(marks, 1) for axis, marks in ask.marks.items()})


def fewer(ask: Demand) -> Demand | None:
    """All but the last index of an axis."""
    marks = {axis: found.copy() for axis, found in ask.marks.items()}
    for found in marks.values():
        held = np.flatnonzero(found)
        found[held[-1]] = found[held[-1]] & 0 if len(held) > 1 else found[held[-1]]
    return demand(ask.who, marks)


def forgotten(site: Site, wanted: Wanted, answer: Answer) -> Answer:
    """An input that is needed in part is not asked for at all: the last one."""
    parts = [index for index, ask in enumerate(answer.asks) if ask is not None and ask.marks]
    return answer._replace(asks=tuple(None if i in parts[-1:] else ask for i, ask in enumerate(answer.asks)))


def greedy(site: Site, wanted: Wanted, answer: Answer) -> Answer:
    """Everything is asked for and kept, and nobody is told."""
    whole = Demand(everyone(wanted))
    asks = tuple(whole if site.has(i) else None for i in range(len(site.node.inputs)))
    return Answer(asks, tuple(None if item is None else whole for item in wanted))


def narrow(site: Site, wanted: Wanted, answer: Answer) -> Answer:
    """The rule of an operator that works element by element, for one that does not."""
    item, shape = wanted[0], site.shape(0)
    fits = item is not None and shape is not None and site.out_shape() == shape
    return Answer((item, *answer.asks[1:]), (item, *wanted[1:])) if fits else answer


def unclosed(site: Site, wanted: Wanted, answer: Answer) -> Answer:
    """The rule says it keeps what is wanted, though it keeps more."""
    return answer._replace(kept=tuple(wanted))


ASKS: Mapping[str, Ask] = {
    "shifted": each_ask(shifted),
    "fewer": each_ask(fewer),
    "forgotten": forgotten,
    "greedy": greedy,
    "narrow": narrow,
    "unclosed": unclosed,
}
UNWRITTEN = "unwritten"  # the node is left as it was, whatever shrank around it
MUTATIONS = (*ASKS, UNWRITTEN)


@dataclass
class Mutant:
    """A broken rule; ``reached`` once it has done anything else than the sound one."""

    sound: Rule
    how: str
    reached: bool = field(default=False)

    def rule(self) -> Rule:
        return Rule(self.sound.ask, self._write) if self.how == UNWRITTEN else Rule(self._ask, self.sound.write)

    def _ask(self, site: Site, wanted: Wanted) -> Answer:
        answer = self.sound.ask(site, wanted)
        broken = ASKS[self.how](site, wanted, answer)
        self.reached |= any(
            told(one) != told(other) for one, other in zip(answers(answer), answers(broken), strict=True)
        )
        return broken

    def _write(self, site: Site, answer: Answer, draft: Draft) -> None:
        right = Draft(Nowhere(), draft.op, dict(draft.attrs), list(draft.inputs), list(draft.outputs))
        self.sound.write(site, answer, right)
        self.reached |= written(right) != written(draft)


class Nowhere:
    """A maker whose nodes are not written."""

    def emit(self, op: str, name: str, attrs: dict[str, Any], inputs: Sequence[Tensor]) -> Variable:
        return Variable(name)

    def sizes(self, dims: Shape, name: str) -> Tensor:
        return Variable(name)


def answers(answer: Answer) -> Iterator[Demand | None]:
    yield from answer.asks
    yield from answer.kept


def told(item: Demand | None) -> object:
    """A demand in a form that can be compared."""
    return item and (item.who, {axis: marks.tolist() for axis, marks in item.marks.items()})


def written(draft: Draft) -> object:
    constants = {position: values.tolist() for position, values in draft.constants.items()}
    return draft.op, draft.attrs, [t.name for t in draft.inputs], draft.outputs, constants, draft.alias


# -- the tests ---------------------------------------------------------------------------------------------------------


def names(cases: Sequence[Case]) -> list[str]:
    """An id for each case: its operator, numbered where there are several."""
    seen: Counter[str] = Counter()
    found = []
    for case in cases:
        seen[case.op] += 1
        found.append(case.op if seen[case.op] == 1 else f"{case.op}-{seen[case.op]}")
    return found


def test_every_rule_has_a_case() -> None:
    """The very functions: an operator that shares its rule with another needs no case of its own."""
    tried = {(rule.ask, rule.write) for rule in map(rule_of, ALL)}
    missing = {op for op, rule in rules.RULES.items() if (rule.ask, rule.write) not in tried}
    assert missing == NEVER_CUT


@pytest.mark.parametrize("case", ALL, ids=names(ALL))
def test_a_broken_rule_is_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_laws(case)
    sound, reached, survivors = rule_of(case), set(), []
    for how in MUTATIONS:
        mutant = Mutant(sound, how)
        put(monkeypatch, case, mutant.rule())
        noticed = is_noticed(case)
        if mutant.reached:
            reached.add(how)
            survivors += [] if noticed else [how]
        else:
            assert not noticed, f"{how} changed nothing, so something else is wrong"
    assert survivors == []
    # Who cuts asks for less than everything; who mixes or closes keeps more than is wanted.
    assert ("greedy" if case.held == case.keep else "unclosed") in reached


WRITERS = {op for op, rule in rules.RULES.items() if rule.write is not unchanged} - NEVER_WRITTEN


@pytest.mark.parametrize("op", sorted(WRITERS))
def test_every_rule_that_writes_is_seen_not_to(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case for case in ALL if rule_of(case) == rules.RULES[op]]
    mutant = Mutant(rules.RULES[op], UNWRITTEN)
    found = []
    for case in cases:
        put(monkeypatch, case, mutant.rule())
        found.append(is_noticed(case))
        monkeypatch.undo()
    assert mutant.reached
    assert any(found)


def is_noticed(case: Case) -> bool:
    try:
        hold_laws(case)
    except NOTICED:
        return True
    return False


def rule_of(case: Case) -> Rule:
    return sweep.CUT_THROUGH if case.op == CLASS_SOFTMAX else rules.RULES[case.op]


def put(monkeypatch: pytest.MonkeyPatch, case: Case, rule: Rule) -> None:
    if case.op == CLASS_SOFTMAX:
        monkeypatch.setattr(sweep, "CUT_THROUGH", rule)
    else:
        monkeypatch.setitem(rules.RULES, case.op, rule)
