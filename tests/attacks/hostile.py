"""Small classifiers, whole but for what somebody puts in to hurt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from networks import Net
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from victims import described

Make = Callable[[], ModelProto]
Cases = Mapping[str, tuple[Make, set[str]]]
"""Models by name, each with what may become of it (``judge``)."""

REFUSED = "ModelError"


def classifier(change: Callable[[Net, str], str] = lambda net, x: x, classes: int = 6) -> ModelProto:
    """A layer over what ``change`` makes of the image ``[batch, 3, 4, 4]``."""
    net = Net()
    net.result(net.head(change(net, net.image()), 3, classes, name="scores"), classes)
    return described(net, "logits", check=False)


def changed(change: Callable[[ModelProto], object]) -> ModelProto:
    proto = classifier(lambda net, x: net.node("Relu", x, out="y"))
    change(proto)
    return proto


def added(*nodes: NodeProto, to: str = "image") -> ModelProto:
    """The nodes stand between the image ``x`` and the head, which reads ``y``."""
    proto = classifier(lambda net, x: net.node("Identity", "y"))
    for node in nodes:
        node.input[:] = [to if name == "x" else name for name in node.input]
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])
    return proto


def branch(nodes: Sequence[NodeProto], result: str, name: str = "branch") -> GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])


def chosen(inner: GraphProto, *nodes: NodeProto) -> ModelProto:
    """``inner`` in an If whose condition is always true."""
    other = branch([helper.make_node("Identity", ["image"], ["other"])], "other")
    node = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=other)
    proto = added(*nodes, node)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return proto


def loop(*, count: int) -> ModelProto:
    """A loop of ``count`` rounds; reading never runs it."""
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    head = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", 9, []),
        state,
    ]
    body = helper.make_graph(
        [helper.make_node("Relu", ["state"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body", head,
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    proto = added(helper.make_node("Loop", ["times", "", "x"], ["y"], body=body))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(count), "times"))
    return proto
