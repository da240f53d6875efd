"""Numbers that a graph computes from its own sizes are folded on reading: to what the runtime makes of them.

Models are judged as in ``test_graph_attacks``; the numbers are an output of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hostile import Cases, added
from judge import AGREES, NOWHERE, TOO_LARGE, judge_all
from networks import Net
from onnx import ModelProto, TensorProto, helper, numpy_helper
from victims import described

TENSOR = TensorProto


def integers(*steps: tuple[str, str, str]) -> ModelProto:
    """Arithmetic with the number of channels (``c`` = 3) and constants, shown as another output."""
    numbers = {"zero": 0, "two": 2, "minus": -7, "much": 2**40, "most": 2**63 - 1}
    nodes = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "one"], ["c"])]
    for k, (op, a, b) in enumerate(steps):
        op, _, mode = op.partition(" ")
        nodes.append(helper.make_node(op, [a, b], [f"n{k}"], **{mode: 1} if mode else {}))
    proto = added(*nodes, helper.make_node("Relu", ["x"], ["y"]))
    for name, value in (*numbers.items(), ("one", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    proto.graph.output.append(helper.make_tensor_value_info(f"n{len(steps) - 1}", TensorProto.INT64, [1]))
    return proto


def in_floats(kind: int, op: str, divisor: int) -> ModelProto:
    """The number of channels, divided by another as a number of another type."""
    net = Net()
    shape = net.node("Gather", net.node("Shape", net.image()), net.constant([1]))
    parts = [net.node("Cast", part, to=kind) for part in (shape, net.constant([divisor]))]
    net.result(net.head("image", 3, 6, name="scores"), 6)
    net.node("Cast", net.node(op, *parts), to=TensorProto.DOUBLE, out="n")
    net.outputs.append(helper.make_tensor_value_info("n", TensorProto.DOUBLE, [1]))
    return described(net, "logits", check=False)


def narrowed(kind: int, value: int) -> ModelProto:
    """A number that a narrower type does not hold, and back."""
    net = Net()
    shape = net.node("Gather", net.node("Shape", net.image()), net.constant([1]))
    total = net.node("Add", shape, net.constant([value]))
    net.result(net.head("image", 3, 6, name="scores"), 6)
    net.node("Cast", net.node("Cast", total, to=kind), to=TensorProto.INT64, out="n")
    net.outputs.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1]))
    return described(net, "logits", check=False)


def spread(op: str) -> ModelProto:
    """Two lists of 1024 numbers, one lying and one standing: a million in all, a hundred times."""
    nodes = [helper.make_node(op, ["lying", "standing"], [f"m{k}"]) for k in range(100)]
    proto = added(*nodes, helper.make_node("Relu", ["x"], ["y"]))
    numbers = np.arange(1, 1025)
    proto.graph.initializer.append(numpy_helper.from_array(numbers[None], "lying"))
    proto.graph.initializer.append(numpy_helper.from_array(numbers[:, None], "standing"))
    return proto


def cubed() -> ModelProto:
    """The same in three directions: a billion."""
    proto = added(helper.make_node("Where", ["a", "b", "c"], ["m"]), helper.make_node("Relu", ["x"], ["y"]))
    for name, shape in (("a", (1024, 1, 1)), ("b", (1, 1024, 1)), ("c", (1, 1, 1024))):
        values = np.arange(1024).reshape(shape)
        proto.graph.initializer.append(numpy_helper.from_array(values > 1 if name == "a" else values, name))
    return proto


def backwards(start: int, end: int, step: int) -> ModelProto:
    """A slice of the image's shape with bounds beyond it."""
    net = Net()
    shape = net.node("Shape", net.image(3, 5, 7), start=1)
    bounds = (net.constant([value]) for value in (start, end, 0, step))
    net.node("Slice", shape, *bounds, out="n")
    net.result(net.head("image", 3, 6, name="scores"), 6)
    net.outputs.append(helper.make_tensor_value_info("n", TensorProto.INT64, [None]))
    return described(net, "logits", check=False)


CASES: Cases = {
    # arithmetic with sizes
    **{
        f"{steps}": (lambda s=steps: integers(*s), {AGREES})
        for steps in (
            (("Mul", "much", "much"),), (("Add", "most", "c"),), (("Sub", "minus", "most"), ("Sub", "n0", "c")),
            (("Mul", "c", "much"), *(("Mul", f"n{k}", f"n{k}") for k in range(40))),
            (("Div", "minus", "two"),), (("Div", "minus", "c"),), (("Mod", "minus", "c"),), (("Mod", "c", "minus"),),
            (("Mod fmod", "minus", "c"),), (("Mod fmod", "c", "minus"),),
        )
    },
    "divided by nothing": (lambda: integers(("Div", "c", "zero")), {NOWHERE}),
    **{
        f"{op} by {divisor} as {TENSOR.DataType.Name(kind)}": (
            lambda k=kind, o=op, d=divisor: in_floats(k, o, d), {AGREES})
        for kind in (TENSOR.FLOAT, TENSOR.DOUBLE, TENSOR.INT32)
        for op in ("Div", "Mul", "Sub")
        for divisor in (2, -2, 2**25 + 1)
    },
    **{
        f"{value} as {TENSOR.DataType.Name(kind)}": (lambda k=kind, v=value: narrowed(k, v), {AGREES})
        for kind, value in (
            (TENSOR.INT32, 2**31), (TENSOR.INT32, 2**40), (TENSOR.FLOAT, 2**24 + 1), (TENSOR.UINT8, 254),
            (TENSOR.INT8, 126), (TENSOR.FLOAT16, 2**11), (TENSOR.DOUBLE, 2**53 + 1),
        )
    },
    **{
        f"[{start}:{end}:{step}]": (lambda a=start, b=end, c=step: backwards(a, b, c), {AGREES})
        for start, end, step in (
            (-9, -9, -1), (9, -9, -1), (-1, -9, -2), (0, 9, 2), (-9, 9, 1), (2, 0, -1), (9, 2, -1),
            (2**63 - 1, -(2**63), -1), (-(2**63), 2**63 - 1, 1), (-9, 0, -1), (-9, 2**63 - 1, -1),
        )
    },
    **{
        f"{op} of a million": (lambda op=op: spread(op), {AGREES, TOO_LARGE})
        for op in ("Add", "Equal")
    },
    "a billion": (cubed, {AGREES, TOO_LARGE}),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes() -> Mapping[str, str]:
    """What became of each."""
    files = [make().SerializeToString() for make, _ in CASES.values()]
    return dict(zip(CASES, judge_all(files), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_runtime(name: str, outcomes: Mapping[str, str]) -> None:
    assert outcomes[name] in CASES[name][1]
