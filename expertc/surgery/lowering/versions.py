"""From one definition of an operator to the one before, until it is old enough."""

from __future__ import annotations

from functools import cache

from onnx import TensorProto, defs

from ...errors import UnsupportedError
from ...graph import Node
from ...text import shown
from .composed import COMPOSED
from .scope import NotExactError, Scope
from .table import CHANGES

OLDEST = 13
"""The oldest opset that is lowered to; every change since is reviewed in ``table``."""


def lowered(node: Node, scope: Scope) -> list[Node]:
    """The node in the words of ``scope.opset``, as one node or several. Raises ``UnsupportedError``."""
    if node.domain:
        return [node]
    version = since(node.op, scope.model.opset)
    try:
        while version is not None and version > scope.opset:
            older = since(node.op, version - 1)
            if node.op in COMPOSED and older is None:
                return COMPOSED[node.op](node, scope)
            change = CHANGES.get((node.op, version))
            if change is None or older is None:
                raise NotExactError("there is no such operator there" if older is None else "it has changed")
            made = change(node, scope)
            if isinstance(made, list):
                return made
            node, version = made, older
            _check_types(node, version, scope)
    except NotExactError as error:
        raise UnsupportedError(
            f"The {node.op} {shown(node.name or node.outputs[0].name)} of opset {scope.model.opset} cannot be written "
            f"for opset {scope.opset}: {error}.",
            f"Export the model with opset {scope.opset} or older, or choose a target that reads a newer one.",
        ) from error
    return [node]


@cache
def since(op: str, opset: int) -> int | None:
    """The opset that brought the definition of ``op`` that holds in ``opset``; None if it has none, or none in use."""
    try:
        schema = defs.get_schema(op, opset)
    except defs.SchemaError:
        return None
    return None if schema.deprecated else int(schema.since_version)


@cache
def _allowed(op: str, version: int) -> tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]]:
    schema = defs.get_schema(op, version)
    return tuple(frozenset(i.types) for i in schema.inputs), tuple(frozenset(o.types) for o in schema.outputs)


def _check_types(node: Node, version: int, scope: Scope) -> None:
    """Raise ``NotExactError`` if a tensor has a type that this definition does not take."""
    for tensors, formal in zip((node.inputs, node.outputs), _allowed(node.op, version), strict=True):
        for position, tensor in enumerate(tensors):
            kind = scope.kind(tensor) if tensor.name else None
            name = "" if kind is None else TensorProto.DataType.Name(kind).lower()
            if kind is not None and f"tensor({name})" not in formal[min(position, len(formal) - 1)]:
                raise NotExactError(f"there it does not take {name}")
