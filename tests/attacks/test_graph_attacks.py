"""Whole models made to hurt, each opened and cut with little memory and time; ONNX Runtime is the judge.

Most are refused; the others must give an expert that agrees with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hostile import REFUSED, Cases, Make, added, branch, changed, chosen, loop
from judge import AGREES, NOWHERE, judge_all
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

COUNT = 5_000


def stored(
    field: str, values: Sequence[float], kind: int = TensorProto.FLOAT, dims: Sequence[int] = (3,)
) -> ModelProto:
    """The image plus a tensor whose ``values`` stand in a field of their own."""
    tensor = TensorProto(name="t", data_type=kind, dims=dims)
    getattr(tensor, field).extend(values)
    cast = helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT)
    shape = helper.make_node("Reshape", ["c", "s"], ["r"])
    proto = added(cast, shape, helper.make_node("Add", ["x", "r"], ["y"]))
    proto.graph.initializer.extend([tensor, numpy_helper.from_array(np.array([1, 3, 1, 1]), "s")])
    return proto


def large(dims: Sequence[int], where: str) -> ModelProto:
    """A tensor without data whose dimensions overflow, or are nothing times much."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims)
    if where == "initializer":
        proto = added(helper.make_node("Add", ["x", "t"], ["y"]))
        proto.graph.initializer.append(tensor)
        return proto
    if where == "constant":
        made = helper.make_node("Constant", [], ["t"], value=tensor)
        return added(made, helper.make_node("Add", ["x", "t"], ["y"]))
    inner = branch([helper.make_node("Add", ["image", "t"], ["inner"])], "inner")
    inner.initializer.append(tensor)
    return chosen(inner)


def sparse(where: str, *, outside: bool) -> ModelProto:
    values = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1])
    indices = numpy_helper.from_array(np.array([1]), "t.indices")
    if outside:
        values.data_location = TensorProto.EXTERNAL
        values.external_data.add(key="location", value="/etc/passwd")
    else:
        values.float_data.append(1.0)
    found = onnx.SparseTensorProto(values=values, indices=indices, dims=[4])
    add = helper.make_node("Add", ["x", "t"], ["y"])
    if where == "initializer":
        proto = added(add)
        proto.graph.sparse_initializer.append(found)
        return proto
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=found)
    node = NodeProto(op_type="Constant", output=["t"], attribute=[attribute])
    if where == "constant":
        return added(node, add)
    inner = branch([node, helper.make_node("Add", ["image", "t"], ["inner"])], "inner")
    return chosen(inner)


IMPORTS = (helper.make_opsetid("", 20), helper.make_opsetid("f", 1))


def function(name: str, *nodes: NodeProto, **options: str) -> onnx.FunctionProto:
    return helper.make_function("f", name, ["a"], ["b"], nodes, IMPORTS, **options)


def calling(name: str, *functions: onnx.FunctionProto, **options: str) -> ModelProto:
    proto = added(helper.make_node(name, ["x"], ["y"], domain="f", **options))
    proto.opset_import.append(IMPORTS[1])
    proto.functions.extend(functions)
    return proto


def call(name: str, **options: str) -> NodeProto:
    return helper.make_node(name, ["a"], ["b"], domain="f", **options)


def within(node: NodeProto) -> list[NodeProto]:
    """``node`` (which makes "b" of "a") inside a branch."""
    inner = NodeProto.FromString(node.SerializeToString())
    inner.output[0] = "inner"
    graph = branch([inner], "inner")
    flag = helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True)))
    return [flag, helper.make_node("If", ["flag"], ["b"], then_branch=graph, else_branch=graph)]


def chain_of_functions() -> ModelProto:
    bodies = [function(f"F{k}", call(f"F{k + 1}")) for k in range(2000)]
    return calling("F0", *bodies, function("F2000", helper.make_node("Relu", ["a"], ["b"])))


def relus(count: int, *, backwards: bool) -> ModelProto:
    names = ["x", *(f"x{k}" for k in range(count - 1)), "y"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    return added(*(reversed(nodes) if backwards else nodes))


def trained(by: str) -> ModelProto:
    """A Dropout whose third input says that it is training, in a way that is not read off at once."""
    made = {
        "initializer": [],
        "constant": [helper.make_node("Constant", [], ["on"], value=numpy_helper.from_array(np.array(True)))],
        "computed": [helper.make_node("Not", ["off"], ["on"])],
        "int": [helper.make_node("Cast", ["one"], ["on"], to=TensorProto.BOOL)],
    }[by]
    proto = added(*made, helper.make_node("Dropout", ["x", "", "on"], ["y"]))
    for name, values in (("on", True), ("off", False), ("one", 1)):
        if name != "on" or by == "initializer":
            proto.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    return proto


def norm(x: str = "x", y: str = "y", **attributes: int) -> NodeProto:
    return helper.make_node("BatchNormalization", [x, "p", "p", "p", "p"], [y], **attributes)


def with_vector(proto: ModelProto) -> ModelProto:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "p"))
    return proto


def trained_behind_a_branch() -> ModelProto:
    """The branch's condition is a weight, but what it hands on is the image."""
    inner = branch([helper.make_node("Relu", ["image"], ["inner"])], "inner")
    other = branch([helper.make_node("Identity", ["image"], ["other"])], "other")
    node = helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=other)
    proto = with_vector(added(node, norm("z", training_mode=1)))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return proto


def trained_by_a_function() -> ModelProto:
    node = norm("a", "b")
    node.attribute.append(AttributeProto(name="training_mode", ref_attr_name="mode", type=AttributeProto.INT))
    body = helper.make_function("f", "F", ["a", "p"], ["b"], [node], IMPORTS, ["mode"])
    proto = with_vector(added(helper.make_node("F", ["x", "p"], ["y"], domain="f", mode=1)))
    proto.opset_import.append(IMPORTS[1])
    proto.functions.append(body)
    return proto


def random_number(op: str, **attributes: object) -> NodeProto:
    if op in ("RandomNormal", "RandomUniform"):
        return helper.make_node(op, [], ["r"], shape=[1, 3, 1, 1])
    if op == "Multinomial":
        return helper.make_node(op, ["m"], ["r"], dtype=TensorProto.INT64)
    return helper.make_node(op, ["image"], ["r"])


def random_somewhere(op: str, where: str) -> ModelProto:
    node = random_number(op)
    if where == "dead":  # nothing reads it
        proto = added(node, helper.make_node("Relu", ["x"], ["y"]))
    elif where == "branch":
        proto = chosen(branch([node, helper.make_node("Relu", ["image"], ["inner"])], "inner"))
    else:
        inside = NodeProto.FromString(node.SerializeToString())
        inside.input[:] = ["a" if name == "image" else name for name in inside.input]
        proto = calling("F", function("F", inside, helper.make_node("Relu", ["a"], ["b"])))
    if op == "Multinomial":
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.float32), "m"))
        if where == "function":
            constant = helper.make_node("Constant", [], ["m"], value=numpy_helper.from_array(np.zeros((1, 3), "f4")))
            proto.functions[0].node.insert(0, constant)
    return proto


def twice(field: str, at: int = 0) -> Callable[[ModelProto], object]:
    """Doubles an entry of a list of the graph."""

    def change(proto: ModelProto) -> None:
        entries = getattr(proto.graph, field)
        entries.add().CopyFrom(entries[at])

    return change


def two_values(proto: ModelProto) -> None:
    """Two initializers of one name, with different values."""
    first = proto.graph.initializer[0]
    values = numpy_helper.to_array(first)
    proto.graph.initializer.append(numpy_helper.from_array(values + 1, first.name))


def shadow() -> ModelProto:
    """A branch makes a tensor of a name that the graph around it has too."""
    inner = branch([helper.make_node("Neg", ["image"], ["z"]), helper.make_node("Relu", ["z"], ["inner"])], "inner")
    return chosen(inner, helper.make_node("Identity", ["x"], ["z"]))


def declared(name: str, *shape: int | str) -> Callable[[ModelProto], object]:
    """Says of an inner tensor or an output what is not so."""

    def change(proto: ModelProto) -> None:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for found in proto.graph.output:
            if found.name == name:
                found.CopyFrom(value)
                return
        proto.graph.value_info.append(value)

    return change


def versions(*, ir: int | None = None, opset: int | None = None) -> Callable[[ModelProto], object]:
    def change(proto: ModelProto) -> None:
        proto.ir_version = ir or proto.ir_version
        proto.opset_import[0].version = opset or proto.opset_import[0].version

    return change


def text(change: Callable[[ModelProto], str]) -> Make:
    """A model with the name that ``change`` put in replaced by bytes that are no UTF-8 text."""

    def make() -> ModelProto:
        proto = changed(lambda proto: None)
        old = change(proto).encode()
        broken = proto.SerializeToString().replace(old, b"\xff\xfe" + old[2:])
        return onnx.ModelProto.FromString(broken)

    return make


def _named(target: object, field: str) -> str:
    setattr(target, field, "not text")
    return "not text"


TENSOR = TensorProto
CYCLES: Mapping[str, Make] = {
    "two nodes": lambda: added(helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])),
    "one node": lambda: added(helper.make_node("Add", ["x", "y"], ["y"])),
    "through a branch": lambda: chosen(branch([helper.make_node("Relu", ["y"], ["inner"])], "inner")),
    "inside a branch": lambda: chosen(
        branch([helper.make_node("Add", ["image", "u"], ["v"]), helper.make_node("Relu", ["v"], ["u"])], "u")
    ),
    "function, itself": lambda: calling("F", function("F", call("F"))),
    "functions, each other": lambda: calling("F", function("F", call("G")), function("G", call("F"))),
    "function, itself in a branch": lambda: calling("F", function("F", *within(call("F")))),
    "functions, overloaded": lambda: calling(
        "F", function("F", call("F", overload="2"), overload="1"),
        function("F", call("F", overload="1"), overload="2"), overload="1",
    ),
    "functions, nobody calls them": lambda: calling("H", function("H", helper.make_node("Relu", ["a"], ["b"])),
                                                    function("F", call("G")), function("G", call("F"))),
    "backwards": lambda: relus(COUNT, backwards=True),
}  # fmt: skip
CASES: Cases = {
    "nothing": (lambda: changed(lambda proto: None), {AGREES}),
    **{f"cycle, {name}": (make, {REFUSED}) for name, make in CYCLES.items()},
    "5,000 nodes": (lambda: relus(COUNT, backwards=False), {AGREES}),
    "a chain of 2,000 functions": (chain_of_functions, {REFUSED, AGREES}),
    **{
        f"sparse {where}{', outside' * outside}": (lambda w=where, o=outside: sparse(w, outside=o), {REFUSED})
        for where in ("initializer", "constant", "branch")
        for outside in (False, True)
    },
    **{
        f"{dims} in {where}": (lambda d=dims, w=where: large(d, w), {REFUSED})
        for dims in ([2**32, 2**32], [2**31, 2**31, 4], [0, 2**62], [2**62, 0], [2**63 - 1], [-1, -1], [2**40, 2**24])
        for where in ("initializer", "constant", "branch")
    },
    # names
    **{f"two of {f}": (lambda f=f: changed(twice(f)), {REFUSED}) for f in ("node", "input", "output")},
    "two initializers of one name": (lambda: changed(two_values), {REFUSED}),
    "two equal initializers": (lambda: changed(twice("initializer")), {REFUSED}),
    "two functions of one name": (
        lambda: calling("F", function("F", helper.make_node("Relu", ["a"], ["b"])),
                        function("F", helper.make_node("Neg", ["a"], ["b"]))), {REFUSED},
    ),
    "two nodes of one name": (
        lambda: added(
            helper.make_node("Relu", ["x"], ["z"], name="n"), helper.make_node("Neg", ["z"], ["y"], name="n")
        ),
        {NOWHERE},
    ),
    "an attribute twice": (
        lambda: changed(
            lambda p: p.graph.node[-1].attribute.extend([helper.make_attribute("alpha", v) for v in (1.0, 2.0)])
        ),
        {REFUSED},
    ),
    "an output that is an input": (
        lambda: changed(lambda p: p.graph.output.add().CopyFrom(p.graph.input[0])), {AGREES, REFUSED}),
    "a node makes an initializer": (
        lambda: changed(lambda p: p.graph.initializer.append(numpy_helper.from_array(np.ones(3, "f4"), "y"))),
        {REFUSED},
    ),
    "a shadow": (shadow, {REFUSED}),
    # shapes
    **{
        f"{name} said to be {shape}": (lambda n=name, s=shape: changed(declared(n, *s)), {AGREES, REFUSED, "CardError"})
        for name in ("y", "scores")
        for shape in (
            ("batch", 5), ("batch", 7), (1, 6), (6,), (), ("batch", 6, 1), ("batch", 3, 9, 9), ("batch", 1, 4, 4),
        )
    },
    # versions and domains
    **{f"IR {ir}": (lambda ir=ir: changed(versions(ir=ir)), {REFUSED}) for ir in (99, 2**62)},
    **{f"opset {n}": (lambda n=n: changed(versions(opset=n)), {REFUSED}) for n in (99, 2**62, -1)},
    "a custom domain": (
        lambda: calling("Strange"), {REFUSED, NOWHERE}),
    # training
    **{
        f"training, {by}": (lambda by=by: trained(by), {REFUSED})
        for by in ("initializer", "constant", "computed", "int")
    },
    "training norm": (lambda: with_vector(added(norm(training_mode=1))), {REFUSED}),
    "training norm behind a branch": (trained_behind_a_branch, {REFUSED}),
    "training norm in a branch": (
        lambda: with_vector(chosen(branch([norm("image", "inner", training_mode=1)], "inner"))), {REFUSED}),
    "training norm in a function": (trained_by_a_function, {REFUSED}),
    # chance
    **{
        f"{op} in {where}": (lambda op=op, where=where: random_somewhere(op, where), {REFUSED})
        for op in ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
        for where in ("dead", "branch", "function")
    },
    # values in the wrong fields, too many, too few, out of range
    **{
        f"{kind} in {field}: {values}": (
            lambda f=field, v=values, k=kind: stored(f, v, TENSOR.DataType.Value(k)), {expected})
        for kind, field, values, expected in (
            ("FLOAT", "float_data", (1, 2, 3), AGREES), ("FLOAT", "float_data", (1, 2, 3, 4, 5, 6), REFUSED),
            ("FLOAT", "float_data", (1, 2), REFUSED), ("FLOAT", "int32_data", (1, 2, 3), REFUSED),
            ("FLOAT", "double_data", (1, 2, 3), REFUSED), ("FLOAT", "int64_data", (1, 2, 3), REFUSED),
            ("DOUBLE", "double_data", (1, 2, 3), AGREES), ("DOUBLE", "float_data", (1, 2, 3), REFUSED),
            ("INT64", "int64_data", (1, 2, 3), AGREES), ("INT64", "int32_data", (1, 2, 3), REFUSED),
            ("FLOAT16", "int32_data", (1, 2, 3), AGREES), ("FLOAT16", "int32_data", (-1, 70000, 1), REFUSED),
            ("INT8", "int32_data", (1, 2, 3), AGREES), ("INT8", "int32_data", (1, 2, 300), AGREES),
            ("UINT8", "int32_data", (1, 2, -3), AGREES), ("BOOL", "int32_data", (0, 1, 7), AGREES),
            ("UINT32", "uint64_data", (1, 2, 2**40), AGREES), ("UINT64", "uint64_data", (1, 2, 3), AGREES),
            ("INT4", "int32_data", (1, 2, 3), REFUSED),
        )
    },
    "a constant without an output": (
        lambda: added(
            helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.array(False))),
            helper.make_node("Relu", ["x"], ["y"]),
        ),
        {REFUSED},
    ),
    "text that is none, producer": (text(lambda p: _named(p, "producer_name")), {REFUSED}),
    "text that is none, version": (text(lambda p: _named(p, "producer_version")), {REFUSED}),
    "text that is none, graph": (text(lambda p: _named(p.graph, "name")), {REFUSED}),
    "text that is none, input": (text(lambda p: _named(p.graph.input[0], "name")), {REFUSED}),
    "text that is none, metadata": (text(lambda p: _named(p.metadata_props.add(key="a"), "value")), {REFUSED}),
    "text that is none, key": (text(lambda p: _named(p.metadata_props.add(), "key")), {REFUSED}),
    "text that is none, node": (
        text(lambda p: _named(p.graph.node[0].metadata_props.add(key="a"), "value")), {REFUSED}),
    "text that is none, attribute": (text(lambda p: _named(p.graph.node[0].attribute.add(type=2), "name")), {REFUSED}),
    "text that is none, domain": (text(lambda p: _named(p.opset_import.add(version=1), "domain")), {REFUSED}),
    "text that is none, symbol": (
        text(lambda p: _named(p.graph.input[0].type.tensor_type.shape.dim[0], "dim_param")), {REFUSED, AGREES}),
    "two cards": (lambda: changed(lambda p: p.metadata_props.add(key="expertc.card", value="{}")), {REFUSED}),
    "a short loop": (lambda: loop(count=2), {AGREES}),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes() -> Mapping[str, str]:
    """What became of each."""
    files = [make().SerializeToString() for make, _ in CASES.values()]
    return dict(zip(CASES, judge_all(files), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_or_the_expert_agrees(name: str, outcomes: Mapping[str, str]) -> None:
    assert outcomes[name] in CASES[name][1]
