"""What is checked of a stranger's graph before anything else looks at it: names, order, tensors, training mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from ..errors import ModelError
from ..text import clean_text, shown
from .nodes import Shape
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


def check(proto: onnx.ModelProto, name: str) -> None:
    """Raise ``ModelError`` if the graph cannot be relied on. Nothing is executed, no weight is converted."""
    graph = proto.graph
    if not graph.output:
        raise ModelError(f"{name} has no outputs.", "Export the model with its scores as an output.")
    _check_text(proto, name)
    _check_opset(proto, name)
    for value in graph.input:
        if not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"{name} does not say the shape of its input {shown(value.name)}.", _AGAIN)
    made = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    _check_order(graph.node, made, name)
    if len({value.name for value in graph.output}) < len(graph.output):
        raise ModelError(f"{name} has two outputs of one name.", _AGAIN)
    for value in graph.output:
        if value.name not in made:
            raise ModelError(f"{name} declares the output {shown(value.name)} that no node makes.", _AGAIN)
    for inner in _graphs(graph):
        _check_graph(inner, name, graph)


def check_functions(proto: onnx.ModelProto, name: str) -> None:
    """Raise ``ModelError`` if a function calls itself, or if inlining would make more than ``MAX_NODES`` nodes."""
    bodies = {(f.domain, f.name): [(n.domain, n.op_type) for n in f.node] for f in proto.functions}
    size: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()
    stack = [(n.domain, n.op_type) for g in _graphs(proto.graph) for n in g.node if (n.domain, n.op_type) in bodies]
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
    calls = [(n.domain, n.op_type) for g in _graphs(proto.graph) for n in g.node]
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


def _check_text(proto: onnx.ModelProto, name: str) -> None:
    """Refuse names that are no text, and metadata that says two things: what a runtime never looks at goes on."""
    keys = [entry.key for entry in proto.metadata_props]
    carried = [proto.producer_name, proto.producer_version, *keys, *(entry.value for entry in proto.metadata_props)]
    carried += [opset.domain for opset in proto.opset_import]
    for graph in _graphs(proto.graph):
        carried += [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
        for node in graph.node:
            carried += (node.name, node.op_type, node.domain)
            carried += node.input
            carried += node.output
            carried += [attribute.name for attribute in node.attribute]
            carried += [text for entry in node.metadata_props for text in (entry.key, entry.value)]
    try:
        "".join(carried)
    except TypeError as error:  # protobuf hands it on as bytes
        raise ModelError(f"{name} has a name that is not UTF-8 text.", _AGAIN) from error
    if len(set(keys)) < len(keys):
        raise ModelError(f"{name} has two entries of one name in its metadata.", _AGAIN)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes."""
    stack = [graph]
    while stack:
        found = stack.pop()
        yield found
        stack += [attribute.g for node in found.node for attribute in node.attribute if attribute.HasField("g")]


def _check_graph(graph: onnx.GraphProto, name: str, main: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise ModelError(f"{name} has sparse weights, which are not supported.", "Export it with dense weights.")
    falsehoods = {tensor.name for tensor in graph.initializer if _is_false(tensor)}
    fixed = {tensor.name for tensor in graph.initializer}  # what follows from weights alone
    for tensor in graph.initializer:
        _check_tensor(tensor, name, beside=graph is main)
    for node in graph.node:
        follows = all(tensor in fixed for tensor in _reads(node))
        if follows:
            fixed.update(node.output)
        for attribute in node.attribute:
            if attribute.type not in _KNOWN_ATTRIBUTES:
                raise ModelError(f"{name}: {_where(node)} has an attribute of an unknown kind.", "Update onnx.")
            if attribute.HasField("t"):
                _check_tensor(attribute.t, name)
            # A weight that is standardised by its own statistics is no training: it comes out the same each time.
            if attribute.name == "training_mode" and attribute.i and not follows:
                raise _training(node, name)
        if node.domain == "" and node.op_type in _RANDOM:
            raise ModelError(f"{name} draws random numbers ({_where(node)}).", "Export it after model.eval().")
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] and node.input[2] not in falsehoods:
            raise _training(node, name)
        if node.op_type == "Constant" and node.domain == "":
            if len(node.output) != 1:
                raise ModelError(f"{name}: {_where(node)} is a constant without a name.", _AGAIN)
            falsehoods |= {node.output[0] for a in node.attribute if a.HasField("t") and _is_false(a.t)}


def _training(node: onnx.NodeProto, name: str) -> ModelError:
    return ModelError(f"{name} was exported in training mode ({_where(node)}).", "Export it after model.eval().")


def _is_false(tensor: onnx.TensorProto) -> bool:
    # Too long for a flag is no flag; raw data is what numpy writes, int32_data what the ONNX helpers write.
    return tensor.data_type == onnx.TensorProto.BOOL and len(tensor.dims) == 0 and not (
        any(tensor.raw_data[:8]) or any(tensor.int32_data[:8])
    )  # fmt: skip


def _check_tensor(tensor: onnx.TensorProto, name: str, *, beside: bool = False) -> None:
    """Refuse dimensions that do not fit the data that is there, and data ``beside`` the model where it may not be."""
    problem = _problem(tensor, beside)
    if problem:
        raise ModelError(f"{name}: the weights {shown(tensor.name)} {problem}.", _AGAIN)


def _problem(tensor: onnx.TensorProto, beside: bool) -> str:
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0
    if outside and not beside:
        return "are inside a node, but kept in another file"
    count = 1
    for dim in tensor.dims:
        count *= dim
        if not 0 <= dim <= MAX_ELEMENTS or count > MAX_ELEMENTS:
            return "have an impossible shape"
    if tensor.data_type not in _TYPES:
        return "are of an unknown type"
    if outside and tensor.data_type == onnx.TensorProto.STRING:
        return "are text, but kept in another file"
    if outside:
        return ""  # ``external`` compares the shape with the file
    if tensor.data_type == onnx.TensorProto.STRING:
        fits = len(tensor.string_data) == count
    elif tensor.raw_data:
        fits = len(tensor.raw_data) == stored_bytes(tensor.data_type, tensor.dims)
    else:
        entries = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        fits = entries == _entries(tensor.data_type, count)
    return "" if fits else "do not have as many values as their shape says"


def _entries(kind: int, count: int) -> int:
    """How many entries of a typed field ``count`` values take."""
    if kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * count
    return stored_bytes(kind, (count,)) if bits(kind) < 8 else count


def _check_order(nodes: Iterable[onnx.NodeProto], made: set[str], name: str) -> None:
    """Check that every tensor is made once, before it is read; adds what the nodes make to ``made``."""
    for node in nodes:
        for tensor in _reads(node):
            if tensor not in made:
                raise ModelError(
                    f"{name}: {_where(node)} reads {shown(tensor)} before anything makes it.",
                    "The graph has a cycle, a gap, or its nodes are out of order: export it again.",
                )
        for tensor in node.output:
            if tensor and tensor in made:
                raise ModelError(f"{name} makes the tensor {shown(tensor)} twice.", _AGAIN)
            made.add(tensor)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors a node reads from the graph it stands in, those captured by its subgraphs included."""
    yield from (tensor for tensor in node.input if tensor)
    stack = [(attribute.g, frozenset[str]()) for attribute in node.attribute if attribute.HasField("g")]
    while stack:
        graph, outer = stack.pop()
        local = outer | {t.name for t in graph.initializer} | {v.name for v in graph.input}
        local |= {tensor for inner in graph.node for tensor in inner.output}
        for inner in graph.node:
            yield from (tensor for tensor in inner.input if tensor and tensor not in local)
            stack += [(attribute.g, local) for attribute in inner.attribute if attribute.HasField("g")]
        yield from (value.name for value in graph.output if value.name not in local)


def _where(node: onnx.NodeProto) -> str:
    return f"'{clean_text(node.name or node.op_type)[:80]}'"
