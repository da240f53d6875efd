"""If, Loop, Scan: both branches of an If are cut to the same rows; loops stay whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from laws import Expert, check
from networks import Array, Net, card, cut, feeds, run
from onnx import TensorProto, helper, numpy_helper

from expertc.card import Output
from expertc.graph import read_model
from expertc.graph.cost import Cost, cost
from expertc.surgery.owners import ownership

Branch = onnx.GraphProto


def branch(name: str, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], **initializers: Array) -> Branch:
    """A subgraph without inputs: what it does not make, it captures."""
    ends = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
    held = [numpy_helper.from_array(values, key.replace("__", ".")) for key, values in initializers.items()]
    return helper.make_graph(list(nodes), name, [], ends, held)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def condition(net: Net) -> str:
    """True for images that are bright on average."""
    mean = net.node("ReduceMean", "image", keepdims=0)
    return str(net.node("Greater", mean, net.constant(0.0)))


def inside(expert: Expert) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers of all subgraphs."""
    found: dict[str, tuple[int, ...]] = {}
    stack = [onnx.load_from_string(expert.data).graph]
    while stack:
        graphs = [a.g for node in stack.pop().node for a in node.attribute if a.HasField("g")]
        stack += graphs
        found |= {tensor.name: tuple(tensor.dims) for graph in graphs for tensor in graph.initializer}
    return found


def either_way(net: Net, expert: Expert, keep: list[int]) -> None:
    """``check`` tries one input; here both branches are taken."""
    for shift in (-3.0, 3.0):
        inputs = {name: (values + shift).astype(values.dtype) for name, values in feeds(net.bytes()).items()}
        np.testing.assert_array_equal(
            run(expert.data, inputs)["scores"], run(net.bytes(), inputs)["scores"][:, sorted(keep)]
        )


def heads() -> tuple[Net, str]:
    """Bright images are judged by one linear layer, dark ones by another; both layers lie in the branches."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    then = branch(
        "then", [helper.make_node("Gemm", [flat, "bright.w", "bright.b"], ["bright"], transB=1)], ["bright"],
        bright__w=numbers(6, 3), bright__b=numbers(6, seed=1),
    )  # fmt: skip
    product = helper.make_node("MatMul", [flat, "dark.w"], ["product"])
    value = numpy_helper.from_array(numbers(6, seed=3))
    other = branch(
        "else",
        [helper.make_node("Constant", [], ["dark.b"], value=value), product,
         helper.make_node("Add", ["product", "dark.b"], ["dark"])],
        ["dark"], dark__w=numbers(3, 6, seed=2),
    )  # fmt: skip
    return net, net.node("If", condition(net), then_branch=then, else_branch=other, out="scores")


@pytest.mark.parametrize("keep", [[0, 4], [1, 2, 3], [0, 1, 2, 3, 4, 5]])
def test_the_initializers_of_both_branches_are_cut(keep: list[int]) -> None:
    net, scores = heads()
    net.result(scores, 6)
    expert = check(net, card(6), keep)
    n = len(keep)
    assert inside(expert) == {"bright.w": (n, 3), "bright.b": (n,), "dark.w": (3, n), "dark.b": (n,)}
    assert expert.stopped == []
    either_way(net, expert, keep)


def test_branches_cost_the_weights_of_both_and_the_products_of_the_larger() -> None:
    net, scores = heads()
    net.result(scores, 6)
    full, expert = read_model(net.bytes()), check(net, card(6), [0, 4])
    assert cost(full) == Cost(2 * (6 * 3 + 6), 6 * 3, 4 * 2 * (6 * 3 + 6) + 4)
    owned = ownership(full, card(6))
    assert [branch.cost for branch in owned.branches] == [Cost(2 * (3 + 1), 3, 4 * 2 * (3 + 1))] * 6
    assert sum((b.cost for b in owned.branches), owned.trunk.cost) == cost(full)
    assert sum((b.cost for b in owned.kept([0, 4])), owned.trunk.cost) == cost(read_model(expert.data))


def test_a_loop_costs_its_body_once() -> None:
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    of = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["carried", "w"], ["next"]), helper.make_node("Identity", ["on"], ["goes"])],
        "body",
        [
            of("turn", TensorProto.INT64, []),
            of("on", TensorProto.BOOL, []),
            of("carried", TensorProto.FLOAT, [1, 3]),
        ],
        [of("goes", TensorProto.BOOL, []), of("next", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(numbers(3, 3), "w")],
    )
    looped = net.node("Loop", net.constant(np.array(4)), net.constant(np.array(True)), flat, body=body)
    net.node("Gemm", looped, net.weight(6, 3, name="fc"), out="scores", transB=1)
    net.result("scores", 6)
    full = read_model(net.bytes())
    assert cost(full) == Cost(9 + 18, 9 + 18, 4 * (9 + 18) + 8 + 1)
    owned = ownership(full, card(6))
    assert owned.trunk.cost == Cost(9, 9, 4 * 9 + 8 + 1)


def test_both_branches_show_the_same_rows_however_many_one_of_them_keeps() -> None:
    """One branch ends in a softmax of its own, which needs every class; a Gather inside it takes the rows."""
    net = Net()
    tensor = net.head(net.image(), 3, 6, name="h")
    then = branch("then", [helper.make_node("Softmax", [tensor], ["soft"], axis=1)], ["soft"])
    other = branch("else", [helper.make_node("Mul", [tensor, "k"], ["plain"])], ["plain"], k=numbers(6))
    chosen = net.node("If", condition(net), then_branch=then, else_branch=other)
    net.result(net.node("Mul", chosen, net.weight(6, name="after"), out="scores"), 6)
    expert = check(net, card(6), [0, 4])
    assert (expert.shapes["h.w"], expert.shapes["after"], inside(expert)["k"]) == ((6, 3), (2,), (2,))
    either_way(net, expert, [0, 4])


def test_what_both_branches_capture_is_cut_to_what_either_needs() -> None:
    net = Net()
    tensor = net.conv(net.image(), 3, 6, name="c")
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor), out="flat")

    def rows(first: int) -> list[onnx.NodeProto]:
        bounds = [f"{end}{first}" for end in ("from", "to", "axis")]
        return [helper.make_node("Slice", [flat, *bounds], [f"rows{first}"])]

    def bounds(first: int) -> dict[str, Array]:
        values = {"from": first, "to": first + 4, "axis": 1}
        return {f"{end}{first}": np.array([value]) for end, value in values.items()}

    branches = [branch(f"b{first}", rows(first), [f"rows{first}"], **bounds(first)) for first in (0, 2)]
    net.result(net.node("If", condition(net), then_branch=branches[0], else_branch=branches[1], out="scores"), 4)
    expert = check(net, card(4), [0, 1], alive=False)  # one input takes one branch
    assert expert.shapes["c.w"] == (4, 3, 1, 1)  # rows 0, 1 and 2, 3
    either_way(net, expert, [0, 1])
    assert check(net, card(4), [3], alive=False, exact=False).shapes["c.w"] == (2, 3, 1, 1)


def test_a_branch_that_hands_on_what_it_captures() -> None:
    """Selected rows of an outer tensor are no node of the branch: an Identity makes them one."""
    net = Net()
    tensor = net.head(net.image(), 3, 6, name="h")
    then = branch("then", [helper.make_node("Identity", [tensor], ["same"])], ["same"])
    other = branch("else", [helper.make_node("Neg", [tensor], ["turned"])], ["turned"])
    net.result(net.node("If", condition(net), then_branch=then, else_branch=other, out="scores"), 6)
    expert = check(net, card(6), [1, 5])
    assert expert.shapes["h.w"] == (2, 3)
    either_way(net, expert, [1, 5])


def test_a_branch_that_slices_what_it_captures_and_hands_it_on() -> None:
    net = Net()
    tensor = net.head(net.image(), 3, 6, name="h")
    ends = {"a": np.array([2]), "b": np.array([6]), "x": np.array([1])}
    then = branch("then", [helper.make_node("Slice", [tensor, "a", "b", "x"], ["part"])], ["part"], **ends)
    twice = [helper.make_node("Slice", [tensor, "c", "d", "y"], ["low"]), helper.make_node("Neg", ["low"], ["turned"])]
    starts = {"c": np.array([0]), "d": np.array([4]), "y": np.array([1])}
    other = branch("else", twice, ["turned"], **starts)
    net.result(net.node("If", condition(net), then_branch=then, else_branch=other, out="scores"), 4)
    expert = check(net, card(4), [0, 3], alive=False)
    assert expert.shapes["h.w"] == (4, 3)
    either_way(net, expert, [0, 3])


def test_a_weight_outside_that_branches_read() -> None:
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    shared = net.weight(3, 6, name="shared")
    ends = []
    for name, op in (("then", "Tanh"), ("else", "Neg")):
        nodes = [helper.make_node("MatMul", [flat, shared], [f"{name}.m"]), helper.make_node(op, [f"{name}.m"], [name])]
        ends.append(branch(name, nodes, [name]))
    chosen = net.node("If", condition(net), then_branch=ends[0], else_branch=ends[1])
    net.result(net.node("Add", chosen, net.node("MatMul", flat, shared), out="scores"), 6)
    expert = check(net, card(6), [2, 3])
    assert (expert.shapes["shared"], inside(expert)["shared"]) == ((3, 2), (3, 2))
    either_way(net, expert, [2, 3])


def test_an_if_in_an_if() -> None:
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    second = net.node("Greater", net.node("ReduceMax", "image", keepdims=0), net.constant(1.0), out="second")
    inner = [
        branch(
            name,
            [helper.make_node("MatMul", [flat, f"{name}.w"], [f"{name}.m"]),
             helper.make_node("Mul", [f"{name}.m", "scale"], [name])],
            [name], **{f"{name}__w": numbers(3, 5, seed=at)},
        )
        for at, name in enumerate(("p", "q"))
    ]  # fmt: skip
    outer = branch(
        "outer",
        [helper.make_node("Exp", ["scale.w"], ["scale"]),
         helper.make_node("If", [second], ["nested"], then_branch=inner[0], else_branch=inner[1])],
        ["nested"], scale__w=numbers(5, seed=5),
    )  # fmt: skip
    plain = branch("plain", [helper.make_node("MatMul", [flat, "r.w"], ["r"])], ["r"], r__w=numbers(3, 5, seed=7))
    net.result(net.node("If", condition(net), then_branch=outer, else_branch=plain, out="scores"), 5)
    expert = check(net, card(5), [0, 3])
    assert inside(expert) == {"p.w": (3, 2), "q.w": (3, 2), "scale.w": (2,), "r.w": (3, 2)}
    assert expert.stopped == []
    either_way(net, expert, [0, 3])


def test_an_output_of_an_if_that_nobody_wants_is_gone() -> None:
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    ends = []
    for at, name in enumerate(("then", "else")):
        made = [helper.make_node("MatMul", [flat, f"{name}{k}.w"], [f"{name}{k}"]) for k in (0, 1)]
        held = {f"{name}{k}__w": numbers(3, 2, seed=at + 2 * k) for k in (0, 1)}
        ends.append(branch(name, made, [f"{name}0", f"{name}1"], **held))
    parts = net.node("If", condition(net), then_branch=ends[0], else_branch=ends[1], out=["low", "high"])
    net.result(net.node("Concat", *parts, axis=1, out="scores"), 4)
    expert = check(net, card(4), [2, 3])
    assert inside(expert) == {"then1.w": (3, 2), "else1.w": (3, 2)}
    either_way(net, expert, [2, 3])
    assert set(inside(check(net, card(4), [1, 2]))) == {"then0.w", "then1.w", "else0.w", "else1.w"}


def test_an_if_that_no_selected_class_needs_is_gone() -> None:
    net, chosen = heads()
    own = net.head("image", 3, 2, name="own")
    net.result(net.node("Concat", chosen, own, axis=1, out="all"), 8)
    expert = check(net, card(8, Output("all")), [6, 7])
    assert "If" not in expert.operators
    assert set(expert.shapes) == {"own.w", "own.b"}


def test_sizes_inside_a_branch_are_read_from_the_image() -> None:
    """Expand to a shape computed inside the branch: the batch is read outside, the class count is written out."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="flat")
    base = net.node("ReduceSum", flat, net.constant([1]), keepdims=1, out="base")
    nodes = [
        helper.make_node("Shape", [flat], ["shape"], start=0, end=1),
        helper.make_node("Concat", ["shape", "six"], ["target"], axis=0),
        helper.make_node("ConstantOfShape", ["target"], ["zeros"]),
        helper.make_node("Add", ["zeros", base], ["filled"]),
        helper.make_node("Mul", ["filled", "k"], ["then"]),
    ]
    then = branch("then", nodes, ["then"], six=np.array([6]), k=numbers(6))
    other = branch("else", [helper.make_node("Mul", [base, "m"], ["else"])], ["else"], m=numbers(6, seed=1))
    net.result(net.node("If", condition(net), then_branch=then, else_branch=other, out="scores"), 6)
    expert = check(net, card(6), [1, 4])
    assert (inside(expert)["k"], inside(expert)["m"]) == ((2,), (2,))
    assert expert.stopped == []
    either_way(net, expert, [1, 4])


# -- Loop, Scan --------------------------------------------------------------------------------------------------------


def looped(net: Net, tensor: str, times: int = 2) -> str:
    """``tensor`` through ``times`` turns of x -> tanh(x) * step, with a captured step."""
    body = helper.make_graph(
        [
            helper.make_node("Tanh", ["x"], ["bent"]),
            helper.make_node("Mul", ["bent", "step"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    net.node("Exp", net.weight(1, name="captured"), out="step")
    return str(net.node("Loop", net.constant(times), "", tensor, body=body))


def test_a_loop_needs_all_that_it_carries_and_what_follows_is_cut() -> None:
    net = Net()
    state = looped(net, net.head(net.image(), 3, 5, name="h"))
    shaped = net.node("Reshape", state, net.constant([-1, 5]))
    net.result(net.node("Mul", shaped, net.weight(5, name="after"), out="scores"), 5)
    expert = check(net, card(5), [1, 3], alive=False)
    assert (expert.shapes["h.w"], expert.shapes["after"]) == ((5, 3), (2,))


def test_a_loop_that_no_selected_class_needs_is_gone() -> None:
    net = Net()
    state = net.node("Reshape", looped(net, net.head(net.image(), 3, 2, name="h")), net.constant([-1, 2]))
    net.result(net.node("Concat", state, net.head("image", 3, 3, name="own"), axis=1, out="scores"), 5)
    expert = check(net, card(5), [2, 4])
    assert "Loop" not in expert.operators
    assert set(expert.shapes) == {"own.w", "own.b"}
    assert "Loop" in check(net, card(5), [0, 1, 2], alive=False).operators


def test_a_scan_over_the_classes_needs_them_all() -> None:
    """A running sum over classes, written as a Scan."""
    net = Net(batch=2)
    logits = net.node("Transpose", net.head(net.image(), 3, 5, name="h"), perm=[1, 0])
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("sum", "row", "next", "shown")]
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "row"], ["next"]), helper.make_node("Identity", ["next"], ["shown"])],
        "body", row[:2], row[2:],
    )  # fmt: skip
    zeros = net.constant(np.zeros(2, np.float32))
    _, sums = net.node("Scan", zeros, logits, out=["end", "sums"], body=body, num_scan_inputs=1)
    net.result(net.node("Mul", net.node("Transpose", sums), net.weight(5, name="after"), out="scores"), 5)
    expert = check(net, card(5), [1, 3], alive=False)
    assert (expert.shapes["h.w"], expert.shapes["after"]) == ((5, 3), (2,))
    assert expert.stopped == ["Scan carries its state from turn to turn"]


def test_the_branches_of_an_if_are_bytes_of_the_expert_whatever_way_it_is_cut() -> None:
    net, scores = heads()
    net.result(scores, 6)
    one, done = cut(net.bytes(), card(6), [0, 2, 4])
    two, _ = cut(one, done.card, [1])
    assert two == cut(net.bytes(), card(6), [2])[0]
