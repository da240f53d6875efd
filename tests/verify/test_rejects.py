"""The ladder rejects experts that were changed, one kind of change per case, at the step that should see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import branched
import numpy as np
import onnx
import pytest
from branched import Case, attribute, insert_after, node, put, rewire, weight
from networks import run
from onnx import helper

from expertc.card import CARD_KEY, Card
from expertc.graph import read_model
from expertc.surgery.prune import prune
from expertc.taxonomy import Taxonomy
from expertc.verify import ladder
from expertc.verify.inputs import prepare
from expertc.verify.structure import Trace, trace
from expertc.verify.views import views

Proto = onnx.ModelProto
Change = Callable[[Proto], Any]


@dataclass(frozen=True)
class Mutant:
    """A change of an expert. ``step`` must reject it; ``seen`` says that the scores alone must, too."""

    case: Case
    change: Change
    step: str
    seen: bool = True


# -- changes of the cut --------------------------------------------------------------------------------------------


def swap_inputs(output: str, one: int, other: int) -> Change:
    def change(proto: Proto) -> None:
        read = node(proto, output).input
        read[one], read[other] = read[other], read[one]

    return change


def swap_weights(one: str, other: str) -> Change:
    def change(proto: Proto) -> None:
        first, second = weight(proto, one), weight(proto, other)
        put(proto, one, second)
        put(proto, other, first)

    return change


def edit(name: str, how: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    return lambda proto: put(proto, name, how(weight(proto, name)))


def rows_of_full(case: Case, name: str, rows: list[int]) -> Change:
    """Other rows of the full model's weight."""
    whole = branched.weight(onnx.load_from_string(case.full), name)
    return lambda proto: put(proto, name, whole[rows])


def one_weight(how: Callable[[np.float32], Any]) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = values.reshape(-1)
        flat[flat.size // 2] = how(flat[flat.size // 2])
        return values

    return change


def flip_exponent_bit(value: np.float32) -> np.float32:
    bits = np.frombuffer(np.float32(value).tobytes(), np.uint32) ^ np.uint32(1 << 24)
    return np.frombuffer(bits.tobytes(), np.float32)[0]


def remove(output: str) -> Change:
    """Take a node out; its readers read its input."""

    def change(proto: Proto) -> None:
        gone = node(proto, output)
        proto.graph.node.remove(gone)
        for item in proto.graph.node:
            for at, name in enumerate(item.input):
                item.input[at] = gone.input[0] if name == output else name

    return change


def become(output: str, op: str) -> Change:
    def change(proto: Proto) -> None:
        item = node(proto, output)
        item.op_type = op
        del item.attribute[:]
        del item.input[1:]

    return change


def drop_input(output: str, position: int) -> Change:
    def change(proto: Proto) -> None:
        del node(proto, output).input[position]

    return change


def scale(output: str, by: float) -> Change:
    def change(proto: Proto) -> None:
        put(proto, "by", np.array(by, np.float32))
        insert_after(proto, output, "Mul", "by")

    return change


def smuggle(name: str, case: Case) -> Change:
    """Hold a removed weight in an initializer that nobody reads."""
    return lambda proto: put(proto, "harmless", weight(onnx.load_from_string(case.full), name))


def smuggle_in_use(name: str, case: Case, into: str) -> Change:
    """Let the graph add zero times the sum of a removed weight."""

    def change(proto: Proto) -> None:
        put(proto, "harmless", weight(onnx.load_from_string(case.full), name))
        put(proto, "nothing", np.array(0, np.float32))
        total = helper.make_node("ReduceSum", ["harmless"], ["total"], name="total", keepdims=0)
        product = helper.make_node("Mul", ["total", "nothing"], ["zero"], name="zero")
        proto.graph.node.insert(0, product)
        proto.graph.node.insert(0, total)
        insert_after(proto, into, "Add", "zero")

    return change


def card_for(card: Card) -> Change:
    return lambda proto: helper.set_model_props(proto, {CARD_KEY: card.to_json()})


def permuted(card: Card) -> Card:
    labels = list(card.classes)
    return replace(card, taxonomy=Taxonomy.flat(labels[1:] + labels[:1], card.taxonomy.name))


def other_selection(case: Case, indices: tuple[int, ...]) -> Change:
    """The expert for other classes, under the card of this one."""
    card = case.card.restrict(case.indices)

    def change(proto: Proto) -> None:
        proto.CopyFrom(onnx.load_from_string(branched.case(case.full, case.card, indices).cut))
        helper.set_model_props(proto, {CARD_KEY: card.to_json()})

    return change


def not_renormalised(case: Case) -> Change:
    """Softmax over all classes first, selection after it."""

    def change(proto: Proto) -> None:
        for name in ("fc.w", "fc.b"):
            put(proto, name, weight(onnx.load_from_string(case.full), name))
        insert_after(proto, "scores", "Gather", "scores@1.indices", axis=1)
        node(proto, "scores").name = "scores@1"
        put(proto, "scores@1.indices", np.array(case.indices, np.int64))

    return change


def shift_slice(proto: Proto) -> None:
    put(proto, "scores@1.starts", weight(proto, "scores@1.starts") + 1)
    put(proto, "scores@1.ends", weight(proto, "scores@1.ends") + 1)


def exchange_bodies(proto: Proto) -> None:
    bodies = node(proto, "first").attribute
    bodies[0].name, bodies[1].name = bodies[1].name, bodies[0].name


def exchange_weights(proto: Proto) -> None:
    one, other = (attribute.g.initializer for attribute in node(proto, "scores").attribute)
    for a, b in zip(one, other, strict=True):
        a.raw_data, b.raw_data = b.raw_data, a.raw_data


def hide_in_a_branch(proto: Proto) -> None:
    """The whole layer, as it was, beside what was cut out of it."""
    full = node(onnx.load_from_string(DECIDING.full), "scores").attribute[0].g.initializer[0]
    branch = node(proto, "scores").attribute[0].g
    held = branch.initializer.add()
    held.CopyFrom(full)
    held.name = "held"


def carry_class_names(proto: Proto) -> None:
    proto.metadata_props.add(key="classes", value="sharks, rays, whales")


def node_metadata(proto: Proto) -> None:
    proto.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/model.py")


def doc_string(proto: Proto) -> None:
    proto.graph.doc_string = "weights of the other classes: ..."


SEPARATE, GROUPED, NESTED = branched.separate(), branched.grouped(), branched.nested()
CAPTURED, DECIDING = branched.captured(), branched.deciding()
SOFTMAX, NORMALISED, SHUFFLED = branched.softmax(), branched.normalised(), branched.shuffled()

CUT: dict[str, Mutant] = {
    "two branches swapped": Mutant(SEPARATE, swap_inputs("scores", 0, 1), "structure"),
    "the weights of two branches swapped": Mutant(SEPARATE, swap_weights("b1.conv.w", "b3.conv.w"), "structure"),
    "a weight perturbed by 1e-3": Mutant(
        SEPARATE, edit("b1.conv.w", one_weight(lambda w: w * np.float32(1.001))), "structure"
    ),
    "one bit of an exponent flipped": Mutant(
        SEPARATE, edit("trunk.conv.w", one_weight(flip_exponent_bit)), "structure"
    ),
    "a weight is NaN": Mutant(SEPARATE, edit("b3.head.w", one_weight(lambda w: np.nan)), "structure"),
    "a weight is infinite": Mutant(SEPARATE, edit("b3.head.b", one_weight(lambda w: np.inf)), "structure"),
    "a ReLU removed": Mutant(SEPARATE, remove("b1.relu"), "structure"),
    "a ReLU replaced by Identity": Mutant(SEPARATE, become("b1.relu", "Identity"), "structure"),
    "a ReLU replaced by Sigmoid": Mutant(SEPARATE, become("b3.relu", "Sigmoid"), "structure"),
    "epsilon changed": Mutant(SEPARATE, lambda p: attribute(p, "b1.bn", "epsilon", 2e-5), "structure"),
    "padding moved": Mutant(SEPARATE, lambda p: attribute(p, "b1.conv", "pads", [2, 1, 0, 1]), "structure"),
    "stride changed": Mutant(SEPARATE, lambda p: attribute(p, "b1.conv", "strides", [2, 2]), "structure"),
    "dilation changed": Mutant(
        SEPARATE,
        lambda p: (attribute(p, "b1.conv", "dilations", [2, 2]), attribute(p, "b1.conv", "pads", [2, 2, 2, 2])),
        "structure",
    ),
    "a bias scaled by beta": Mutant(SEPARATE, lambda p: attribute(p, "b1.head", "beta", 0.5), "structure"),
    "the scores scaled by 1.0001": Mutant(SEPARATE, scale("scores", 1.0001), "structure"),
    "a removed weight in an unused initializer": Mutant(SEPARATE, smuggle("b0.conv.w", SEPARATE), "structure", False),
    "a removed weight times zero": Mutant(
        SEPARATE, smuggle_in_use("b0.conv.w", SEPARATE, "b1.head"), "structure", False
    ),
    "the card of another selection": Mutant(
        SEPARATE, card_for(SEPARATE.card.restrict((1, 2))), "structure", False
    ),
    "the full model's card": Mutant(SEPARATE, card_for(SEPARATE.card), "structure", False),
    "labels permuted": Mutant(SEPARATE, card_for(permuted(SEPARATE.card.restrict((1, 3)))), "structure", False),
    "the licence line changed": Mutant(
        SEPARATE, card_for(replace(SEPARATE.card.restrict((1, 3)), weights_licence="free")), "structure", False
    ),
    "class names in the metadata": Mutant(SEPARATE, carry_class_names, "structure", False),
    "a path in a node's metadata": Mutant(SEPARATE, node_metadata, "structure", False),
    "a doc string": Mutant(SEPARATE, doc_string, "structure", False),
    "an extra class kept": Mutant(SEPARATE, other_selection(SEPARATE, (1, 3, 4)), "structure"),
    "another class kept instead": Mutant(SEPARATE, other_selection(SEPARATE, (1, 4)), "raw scores"),
    "a branch reads the trunk before its ReLU": Mutant(
        SEPARATE, lambda p: rewire(p, "b1.conv", 0, "trunk.bn"), "structure"
    ),
    "a branch's convolution used twice": Mutant(SEPARATE, lambda p: rewire(p, "b3.bn", 0, "b1.conv"), "structure"),
    "the next group taken": Mutant(
        GROUPED, rows_of_full(GROUPED, "groups.w", [*range(8, 12), *range(16, 20)]), "raw scores"
    ),
    "a group too many taken by the head": Mutant(GROUPED, rows_of_full(GROUPED, "heads.w", [1, 4]), "raw scores"),
    "a bias shifted by a row": Mutant(GROUPED, rows_of_full(GROUPED, "heads.b", [0, 2]), "raw scores"),
    "a batch-norm vector shifted by a row": Mutant(
        GROUPED, rows_of_full(GROUPED, "bn.mean", [*range(5, 9), *range(13, 17)]), "raw scores"
    ),
    "a batch-norm vector unsliced": Mutant(GROUPED, rows_of_full(GROUPED, "bn.var", list(range(20))), "raw scores"),
    "mean and variance exchanged": Mutant(GROUPED, swap_inputs("bn", 3, 4), "structure"),
    "the group count off by one": Mutant(GROUPED, lambda p: attribute(p, "groups", "group", 3), "raw scores"),
    "a row of the head duplicated": Mutant(GROUPED, rows_of_full(GROUPED, "heads.w", [1, 1]), "structure"),
    "the rows of the head reversed": Mutant(GROUPED, rows_of_full(GROUPED, "heads.w", [3, 1]), "structure"),
    "the class order reversed": Mutant(
        GROUPED,
        lambda p: (rows_of_full(GROUPED, "heads.w", [3, 1])(p), rows_of_full(GROUPED, "heads.b", [3, 1])(p)),
        "structure",
    ),
    "a bias dropped": Mutant(GROUPED, drop_input("heads", 2), "structure"),
    "the first layer's rows not those of its groups": Mutant(
        GROUPED, rows_of_full(GROUPED, "wide.w", [*range(4, 8), *range(13, 17)]), "raw scores"
    ),
    "a class reads the other category": Mutant(NESTED, lambda p: rewire(p, "c3.conv", 0, "left.relu"), "structure"),
    "two categories exchanged": Mutant(
        NESTED,
        lambda p: [
            rewire(p, f"{one}.conv", at, f"{other}.conv.{kind}")
            for one, other in (("left", "right"), ("right", "left"))
            for at, kind in ((1, "w"), (2, "b"))
        ],
        "structure",
    ),
    "the softmax not renormalised": Mutant(SOFTMAX, not_renormalised(SOFTMAX), "raw scores"),
    "the softmax over the images": Mutant(SOFTMAX, lambda p: attribute(p, "scores", "axis", 0), "structure"),
    "the softmax removed": Mutant(SOFTMAX, become("scores", "Identity"), "structure"),
    "the softmax replaced by its logarithm": Mutant(SOFTMAX, become("scores", "LogSoftmax"), "structure"),
    "the rows of other classes in a softmax": Mutant(SOFTMAX, rows_of_full(SOFTMAX, "fc.w", [0, 3]), "raw scores"),
    "a slice shifted by one": Mutant(NORMALISED, shift_slice, "raw scores"),
    "a normalisation over the kept classes only": Mutant(
        NORMALISED,
        lambda p: [rows_of_full(NORMALISED, name, [0, 1, 2])(p) for name in ("fc.w", "fc.b", "ln.g", "ln.b")],
        "raw scores",
    ),
    "the branches of an If exchanged": Mutant(CAPTURED, exchange_bodies, "structure"),
    "the weights of the branches of an If exchanged": Mutant(DECIDING, exchange_weights, "structure"),
    "removed weights left in a branch of an If": Mutant(DECIDING, hide_in_a_branch, "structure", seen=False),
    "a branch reads the neighbour's part": Mutant(SHUFFLED, swap_inputs("pair0", 0, 1), "structure"),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_a_changed_cut_is_rejected(name: str) -> None:
    mutant = CUT[name]
    canonical = "unused" not in name and "doc string" not in name  # reading and writing would clean these up
    certificate = mutant.case.changed(mutant.change, canonical=canonical).climb()
    assert certificate.verdict == "failed"
    assert certificate.failure is not None
    assert certificate.failure.name == mutant.step, certificate.failure.detail
    assert certificate.steps[-1] is certificate.failure


@pytest.mark.parametrize("name", [name for name, mutant in CUT.items() if mutant.seen])
def test_the_scores_alone_reject_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = CUT[name]
    full, cut = read_model(mutant.case.full), read_model(mutant.case.cut)
    sound: Trace = trace(full, cut, views(full, mutant.case.card), mutant.case.card, mutant.case.indices)
    monkeypatch.setattr(ladder, "trace", lambda *_: sound)
    monkeypatch.setattr(ladder, "require_absent", lambda *_: 0)
    monkeypatch.setattr(ladder, "check_card", lambda *_, **__: None)
    failure = mutant.case.changed(mutant.change).climb("full").failure
    assert failure is not None
    assert failure.name == "raw scores", failure.detail


# -- changes of the final model only -------------------------------------------------------------------------------

FINAL: dict[str, Mutant] = {
    "a folded bias dropped": Mutant(SEPARATE, drop_input("trunk.bn", 2), "optimised"),
    "a folded weight off by a hundredth": Mutant(
        SEPARATE, edit("b1.bn.weight", lambda w: w * np.float32(1.01)), "optimised"
    ),
    "the scores scaled by 1.001": Mutant(GROUPED, scale("scores", 1.001), "optimised"),
    "two branches swapped": Mutant(SEPARATE, swap_inputs("scores", 0, 1), "optimised"),
    "the final model of other classes": Mutant(
        SEPARATE,
        lambda p: (
            p.CopyFrom(onnx.load_from_string(branched.separate((1, 4)).final)),
            card_for(SEPARATE.card.restrict((1, 3)))(p),
        ),
        "optimised",
    ),
    "NaN": Mutant(SEPARATE, edit("b1.head.b", lambda b: b * np.nan), "optimised"),
    "the softmax removed": Mutant(SOFTMAX, become("scores", "Identity"), "optimised"),
    "a softmax too many": Mutant(SOFTMAX, lambda p: insert_after(p, "scores", "Softmax"), "optimised"),
    "a removed weight in an unused initializer": Mutant(SEPARATE, smuggle("b0.conv.w", SEPARATE), "structure"),
    "a removed weight times zero": Mutant(SEPARATE, smuggle_in_use("b0.conv.w", SEPARATE, "b1.head"), "structure"),
    "the card of another selection": Mutant(SEPARATE, card_for(SEPARATE.card.restrict((1, 2))), "structure"),
    "class names in the metadata": Mutant(SEPARATE, carry_class_names, "structure"),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_changed_final_model_is_rejected(name: str) -> None:
    mutant = FINAL[name]
    failure = mutant.case.finally_changed(mutant.change, canonical="unused" not in name).climb().failure
    assert failure is not None
    assert failure.name == mutant.step, failure.detail


def test_an_order_that_the_tolerance_hides_is_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score moves by less than the tolerance, here a large one, but the two classes change places."""

    def exchange(proto: Proto) -> None:
        put(proto, "mix", np.array([[0.45, 0.55], [0.55, 0.45]], np.float32))
        insert_after(proto, "scores", "MatMul", "mix")

    inputs = prepare(None, branched.PREPROCESS, (None, 3, 8, 8)).values
    scores = run(GROUPED.cut, {"image": inputs})["scores"]
    apart = np.abs(scores[:, 0] - scores[:, 1]).max() / np.abs(scores).max()
    monkeypatch.setattr(ladder, "FINAL", 0.6 * float(apart))
    failure = GROUPED.finally_changed(exchange).climb().failure
    assert failure is not None
    assert failure.numbers["largest_difference"] < failure.numbers["allowed"]
    assert "ranks the classes" in failure.detail


def test_what_is_not_onnx_is_rejected_in_words() -> None:
    failure = replace(SEPARATE, cut=b"not onnx").climb().failure
    assert failure is not None
    assert failure.detail.startswith("The expert cannot be read: ")


def test_a_missing_dependency_is_nan_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert that lost a node the classes depend on, with a structure check that noticed nothing."""
    full, cut = read_model(SEPARATE.full), read_model(SEPARATE.cut)
    sound = trace(full, cut, views(full, SEPARATE.card), SEPARATE.card, SEPARATE.indices)
    blind = replace(sound, twins=sound.twins - {full.producers["trunk.bn"]})
    monkeypatch.setattr(ladder, "trace", lambda *_: blind)
    failure = SEPARATE.climb().failure
    assert failure is not None
    assert "was cut off" in failure.detail


def test_the_selection_itself_is_checked() -> None:
    """A sound expert, claimed to be for other classes."""
    failure = replace(SEPARATE, indices=(1, 4)).climb().failure
    assert failure is not None
    assert failure.name == "structure"
    assert prune(read_model(SEPARATE.full), SEPARATE.card, (1, 3)).indices == SEPARATE.indices
