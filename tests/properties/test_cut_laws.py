"""The laws of the cut (DESIGN section 4) over generated networks and selections."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generated import Branch, Divided, Flat, Grouped, Last, Reader, Spec, Twins, build, selections, specs, unequal
from hypothesis import given
from hypothesis import strategies as st
from laws import check
from networks import card, cut

import expertc
from expertc.card import Card, Output
from expertc.graph import Constant, read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune


def card_of(spec: Spec) -> Card:
    exits = (Output("exit"),) if spec.exit else ()
    return card([f"<{c}>" for c in range(spec.classes)], Output("scores", spec.kind, spec.axis), *exits)


@given(st.data())
def test_exact_and_sound_and_nothing_kept_is_dead(data: st.DataObject) -> None:
    """The full model's rows; what was removed does not matter (NaN), every weight that was kept does."""
    spec = data.draw(specs(("logits", "softmax", "joint", "apart")))
    keep = data.draw(selections(spec))
    # A softmax that is sure of itself is 1 whatever most weights are.
    alive = not unequal(spec, keep) and spec.ending == "logits"
    expert = check(build(spec), card_of(spec), keep, exact=False, alive=alive, judge=False, composable=False, sample=8)
    assert expert.cut.renormalised == (spec.ending == "softmax")
    assert expert.stopped == []


@given(st.data())
def test_minimal(data: st.DataObject) -> None:
    """Parameters and MACs are those of the network built with only the selected branches."""
    spec = data.draw(specs())
    keep = data.draw(selections(spec))
    expert = cost(read_model(cut(build(spec).bytes(), card_of(spec), keep)[0]))
    alone = cost(read_model(build(spec, keep).bytes()))
    assert (expert.parameters, expert.macs) == (alone.parameters, alone.macs)


@given(st.data())
def test_composable_as_bytes(data: st.DataObject) -> None:
    """Cutting to B and then to A is cutting to A, for A inside B; so cutting twice is cutting once."""
    spec = data.draw(specs(("logits", "softmax", "joint", "apart")))
    larger = data.draw(selections(spec))
    smaller = sorted(data.draw(st.sets(st.sampled_from(larger), min_size=1)))
    full, whole = build(spec).bytes(), card_of(spec)
    step, done = cut(full, whole, larger)
    direct, _ = cut(full, whole, smaller)
    assert cut(step, done.card, [larger.index(c) for c in smaller])[0] == direct
    assert cut(direct, whole.restrict(smaller), range(len(smaller)))[0] == direct


@given(st.data())
def test_gone(data: st.DataObject) -> None:
    """No name of a removed class, no initializer of a removed branch, no removed row is in the file."""
    spec = data.draw(specs())
    keep = data.draw(selections(spec))
    net = build(spec)
    expert, _ = cut(net.bytes(), card_of(spec), keep)
    assert [c for c in range(spec.classes) if f"<{c}>".encode() in expert] == keep
    alone = build(spec, keep)
    for name, values in net.initializers.items():
        if "." in name and name not in alone.initializers:
            assert name.encode() not in expert
            assert values.size < 4 or values.tobytes() not in expert


@given(st.data())
def test_branches_add_up(data: st.DataObject) -> None:
    """Trunk and the branches that a selection needs are its expert (all of them: the model), but for closures."""
    spec = data.draw(specs())
    full, whole = build(spec).bytes(), card_of(spec)
    owned = ownership(read_model(full), whole)
    for keep in (range(spec.classes), data.draw(selections(spec))):
        kept = sum((branch.cost for branch in owned.kept(keep)), owned.trunk.cost)
        expert = cost(read_model(cut(full, whole, keep)[0]))
        if unequal(spec, keep):
            assert kept.parameters <= expert.parameters
            assert kept.macs <= expert.macs
        else:
            assert (kept.parameters, kept.macs) == (expert.parameters, expert.macs)


@given(st.data())
def test_lazy(data: st.DataObject) -> None:
    """No weight of a branch that goes is decoded, nor copied as it is stored."""
    spec = data.draw(specs(("logits", "softmax", "joint")))
    keep = data.draw(selections(spec))
    full, alone = build(spec), build(spec, keep)
    source = full.bytes()
    touched: set[str] = set()

    def recorded(name: str) -> Any:
        method = vars(Constant)[name]

        def call(self: Constant) -> Any:
            touched.add(self.name)
            return method.fget(self) if isinstance(method, property) else method(self)

        return property(call) if isinstance(method, property) else call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("values", "stored", "to_proto"):
            patch.setattr(Constant, name, recorded(name))
        to_bytes(prune(read_model(source), card_of(spec), keep).model)
    assert "trunk.w" in touched
    if spec.ending != "joint":
        assert not {name for name in touched if "." in name and name in full.initializers} - alone.initializers.keys()


@given(st.data())
def test_honest(data: st.DataObject) -> None:
    """An operator without a rule is named, everything below it stays, and the scores are exact all the same."""
    spec = data.draw(specs())
    keep = data.draw(selections(spec))
    net = build(spec, opaque="Det")
    expert = check(net, card_of(spec), keep, exact=False, alive=False, judge=False, composable=False)
    whole = len(keep) == spec.classes
    assert expert.cut.stopped == (() if whole else (("no rule for Det", 1),))
    assert {name for name in net.initializers if name.startswith("b.") and not name.startswith("b.exit")} <= {
        name.partition("@cut-")[0] for name in expert.shapes
    }


INNER = Reader((2, 0), Branch(2, 1, False, False, (Flat(1), Twins(2, 2))))
NEST = Branch(
    3, 2, True, True, (Flat(2), Grouped(3, 2, 2, True), INNER, Divided(2, (Last(1), Grouped(2, 1, 1, False))))
)


@pytest.mark.parametrize("ending", ["logits", "softmax", "joint", "apart"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_kind_of_part_in_one_network(ending: str, axis: int) -> None:
    """So that no run leaves one out; a channel is cut to exactly one, groups are hit unequally, in the last two."""
    spec = Spec(20, 3, NEST, tuple(range(15, -1, -1)), ending, 7, axis, scattered=axis == 1, exit=axis != 1)
    for keep in ([0, 3, 7, 8, 12], [5], [7, 10, 13]):
        check(build(spec), card_of(spec), keep, exact=False, alive=False, judge=False)
        if ending == "logits":
            expert = cost(read_model(cut(build(spec).bytes(), card_of(spec), keep)[0]))
            alone = cost(read_model(build(spec, keep).bytes()))
            assert (expert.parameters, expert.macs) == (alone.parameters, alone.macs)


PROGRAM = """
import hashlib
from generated import Branch, Divided, Flat, Grouped, Last, Reader, Spec, Twins, build
from networks import card, cut
from expertc.card import Output
inner = Reader((2, 0), Branch(2, 1, False, False, (Flat(1), Twins(2, 1))))
root = Branch(3, 2, True, True, (Flat(2), Grouped(3, 2, 2, True), inner, Divided(2, (Last(1), Flat(2)))))
spec = Spec(20, 3, root, (4, 3, 10, 1, 0, 2, 9, 8, 7, 6, 5, 11, 13, 12), "joint", 7, 2, True)
found = hashlib.sha256()
for keep in ([0, 2, 5], [1], [3, 4, 9, 10]):
    found.update(cut(build(spec).bytes(), card(14, Output('scores', 'joint', 2)), keep)[0])
print(found.hexdigest())
"""


@pytest.mark.parametrize("program", [PROGRAM])
def test_deterministic_whatever_the_hash_seed(program: str) -> None:
    here = Path(__file__).parent
    paths = os.pathsep.join(str(p) for p in (here, here.parent, Path(expertc.__file__).parent.parent))
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "4242")
    }  # fmt: skip
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 2 * hashlib.sha256().digest_size
