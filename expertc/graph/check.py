"""What is checked of a stranger's graph before anything else looks at it: names, order, tensors, training mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from ..errors import ModelError
from ..text import clean_text, shown
from .nodes import Shape
from .scopes import GivenNode, GivenTensor, Scope, graphs_in
from .tensors import bits, stored_bytes

MAX_ELEMENTS = 2**40  # of one tensor: beyond, a product of dimensions is a lie or an attack
MAX_AXIS = 2**24  # of one axis: the demand analysis holds a mark per index
MAX_NODES = 2**20  # after inlining: functions that call functions twice grow like powers of two

# Of other kinds (sparse tensors, lists of graphs) the passes know nothing, nor does a classifier need them.
_KNOWN_ATTRIBUTES = {
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.TENSOR,
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRINGS,
}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_TYPES = set(onnx.helper.get_all_tensor_dtypes()) - {onnx.TensorProto.UNDEFINED}
_AGAIN = "Export the model again."


def check(proto: onnx.ModelProto, scopes: Sequence[Scope], name: str) -> None:
    """Raise ``ModelError`` if the graph cannot be relied on. Nothing is executed, no weight is converted.

    ``scopes`` are what ``read_scopes`` gives for it.
    """
    graph = proto.graph
    if not graph.output:
        raise ModelError(f"{name} has no outputs.", "Export the model with its scores as an output.")
    _check_text(proto, scopes, name)
    _check_opset(proto, name)
    for value in graph.input:
        if not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"{name} does not say the shape of its input {shown(value.name)}.", _AGAIN)
    given = {tensor.name for tensor in scopes[0].tensors}
    if len(given) < len(scopes[0].tensors):
        raise ModelError(f"{name} has two weights of one name.", _AGAIN)
    made = given | {value.name for value in graph.input}
    _check_order(scopes[0].nodes, made, name)
    if len({value.name for value in graph.output}) < len(graph.output):
        raise ModelError(f"{name} has two outputs of one name.", _AGAIN)
    for value in graph.output:
        if value.name not in made:
            raise ModelError(f"{name} declares the output {shown(value.name)} that no node makes.", _AGAIN)
    for scope in scopes:
        _check_graph(scope, name, beside=scope is scopes[0])


def check_functions(proto: onnx.ModelProto, name: str) -> None:
    """Raise ``ModelError`` if a function calls itself, or if inlining would make more than ``MAX_NODES`` nodes."""
    bodies = {(f.domain, f.name): [(n.domain, n.op_type) for n in f.node] for f in proto.functions}
    size: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()
    stack = [(n.domain, n.op_type) for g in graphs_in(proto.graph) for n in g.node if (n.domain, n.op_type) in bodies]
    while stack:
        function = stack[-1]
        inner = [call for call in bodies[function] if call in bodies]
        waiting = [call for call in inner if call not in size]
        if function in size or not waiting:
            size.setdefault(function, len(bodies[function]) + sum(size[call] for call in inner))
            open_calls.discard(stack.pop())
            continue
        if function in open_calls:
            raise ModelError(f"{name}: the function {shown(function[1])} calls itself.", _AGAIN)
        open_calls.add(function)
        stack += waiting
    calls = [(n.domain, n.op_type) for g in graphs_in(proto.graph) for n in g.node]
    if sum(size.get(call, 1) for call in calls) > MAX_NODES:
        raise ModelError(f"{name} has functions that unfold into more than {MAX_NODES:,} nodes.", _AGAIN)


def check_sizes(shapes: Mapping[str, Shape], name: str) -> None:
    """Raise ``ModelError`` if a tensor that the graph asks for is beyond all reason."""
    impossible = {shape for shape in set(shapes.values()) if _is_impossible(shape)}
    for tensor in (tensor for tensor, shape in shapes.items() if shape in impossible):
        raise ModelError(f"{name} asks for a tensor of impossible size ({shown(tensor)}).", _AGAIN)


def _is_impossible(shape: Shape) -> bool:
    count = 1
    for dim in shape:
        count *= dim if isinstance(dim, int) else 1
        if count > MAX_ELEMENTS or (isinstance(dim, int) and not 0 <= dim <= MAX_AXIS):
            return True
    return False


def _check_opset(proto: onnx.ModelProto, name: str) -> None:
    versions = [opset.version for opset in proto.opset_import if opset.domain == ""]
    if len(versions) != 1:
        raise ModelError(f"{name} does not say which ONNX operator set it uses.", _AGAIN)
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= versions[0] <= newest:
        raise ModelError(
            f"{name} uses ONNX opset {versions[0]}, this machine's onnx knows up to {newest}.",
            "Update onnx, or export the model for an older opset.",
        )


def _check_text(proto: onnx.ModelProto, scopes: Iterable[Scope], name: str) -> None:
    """Refuse names that are no text, and metadata that says two things: what a runtime never looks at goes on."""
    keys = [entry.key for entry in proto.metadata_props]
    carried = [proto.producer_name, proto.producer_version, *keys, *(entry.value for entry in proto.metadata_props)]
    carried += [opset.domain for opset in proto.opset_import]
    for scope in scopes:
        carried += [value.name for value in (*scope.graph.input, *scope.graph.output)]
        carried += [tensor.name for tensor in scope.tensors]
        for node in scope.nodes:
            carried += (node.name, node.op, node.domain, *node.inputs, *node.outputs)
            for attribute in node.attributes:
                carried.append(attribute.name)
            for entry in node.proto.metadata_props:
                carried += (entry.key, entry.value)
    try:
        "".join(carried)
    except TypeError as error:  # protobuf hands it on as bytes
        raise ModelError(f"{name} has a name that is not UTF-8 text.", _AGAIN) from error
    if len(set(keys)) < len(keys):
        raise ModelError(f"{name} has two entries of one name in its metadata.", _AGAIN)


def _check_graph(scope: Scope, name: str, *, beside: bool) -> None:
    """Check a graph's weights, which may be ``beside`` the model, and what its nodes do."""
    if scope.graph.sparse_initializer:
        raise ModelError(f"{name} has sparse weights, which are not supported.", "Export it with dense weights.")
    falsehoods = {tensor.name for tensor in scope.tensors if _is_false(tensor)}
    fixed = {"", *(tensor.name for tensor in scope.tensors)}  # what follows from weights alone
    for tensor in scope.tensors:
        _check_tensor(tensor, name, beside=beside)
    for node in scope.nodes:
        follows = fixed.issuperset(node.reads)
        if follows:
            fixed.update(node.outputs)
        for attribute in node.attributes:
            if attribute.type not in _KNOWN_ATTRIBUTES:
                raise ModelError(f"{name}: {_where(node)} has an attribute of an unknown kind.", "Update onnx.")
            if attribute.HasField("t"):
                _check_tensor(GivenTensor.read(attribute.t), name)
            # A weight that is standardised by its own statistics is no training: it comes out the same each time.
            if attribute.name == "training_mode" and attribute.i and not follows:
                raise _training(node, name)
        if node.domain == "" and node.op in _RANDOM:
            raise ModelError(f"{name} draws random numbers ({_where(node)}).", "Export it after model.eval().")
        if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in falsehoods:
            raise _training(node, name)
        if node.op == "Constant" and node.domain == "":
            if len(node.outputs) != 1:
                raise ModelError(f"{name}: {_where(node)} is a constant without a name.", _AGAIN)
            false = any(_is_false(GivenTensor.read(a.t)) for a in node.attributes if a.HasField("t"))
            falsehoods |= set(node.outputs if false else ())


def _training(node: GivenNode, name: str) -> ModelError:
    return ModelError(f"{name} was exported in training mode ({_where(node)}).", "Export it after model.eval().")


def _is_false(tensor: GivenTensor) -> bool:
    # Too long for a flag is no flag; raw data is what numpy writes, int32_data what the ONNX helpers write.
    return tensor.kind == onnx.TensorProto.BOOL and not tensor.shape and not (
        any(tensor.proto.raw_data[:8]) or any(tensor.proto.int32_data[:8])
    )  # fmt: skip


def _check_tensor(tensor: GivenTensor, name: str, *, beside: bool = False) -> None:
    """Refuse dimensions that do not fit the data that is there, and data ``beside`` the model where it may not be."""
    problem = _problem(tensor, beside)
    if problem:
        raise ModelError(f"{name}: the weights {shown(tensor.name)} {problem}.", _AGAIN)


def _problem(tensor: GivenTensor, beside: bool) -> str:
    proto, kind, outside, count = tensor.proto, tensor.kind, tensor.outside, 1
    if outside and not beside:
        return "are inside a node, but kept in another file"
    for dim in tensor.shape:
        count *= dim
        if not 0 <= dim <= MAX_ELEMENTS or count > MAX_ELEMENTS:
            return "have an impossible shape"
    if kind not in _TYPES:
        return "are of an unknown type"
    if outside and kind == onnx.TensorProto.STRING:
        return "are text, but kept in another file"
    if outside:
        return ""  # ``external`` compares the shape with the file
    if kind == onnx.TensorProto.STRING:
        fits = len(proto.string_data) == count
    elif proto.raw_data:
        fits = len(proto.raw_data) == stored_bytes(kind, tensor.shape)
    else:
        entries = len(getattr(proto, onnx.helper.tensor_dtype_to_field(kind)))
        fits = entries == _entries(kind, count)
    return "" if fits else "do not have as many values as their shape says"


def _entries(kind: int, count: int) -> int:
    """How many entries of a typed field ``count`` values take."""
    if kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * count
    return stored_bytes(kind, (count,)) if bits(kind) < 8 else count


def _check_order(nodes: Iterable[GivenNode], made: set[str], name: str) -> None:
    """Check that every tensor is made once, before it is read; adds what the nodes make to ``made``."""
    for node in nodes:
        for tensor in node.reads:
            if tensor and tensor not in made:
                raise ModelError(
                    f"{name}: {_where(node)} reads {shown(tensor)} before anything makes it.",
                    "The graph has a cycle, a gap, or its nodes are out of order: export it again.",
                )
        for tensor in node.outputs:
            if tensor and tensor in made:
                raise ModelError(f"{name} makes the tensor {shown(tensor)} twice.", _AGAIN)
            made.add(tensor)


def _where(node: GivenNode) -> str:
    return f"'{clean_text(node.name or node.op)[:80]}'"
