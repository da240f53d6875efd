"""Requests and answers of the Open Inference Protocol's REST form, version 2; no network here.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, "Inference"; and
the binary tensor data extension that Triton and KServe share (Triton user guide, "Binary Tensor Data Extension"), in
which the JSON is followed by the bytes of the tensors that say ``binary_data_size``.

orjson reads the JSON: an image is a megabyte of numbers in it, over which Python's own reader takes longer than the
network (``benchmarks/serve.py``). Where a name stands twice in an object, the last one counts.

Nothing may be larger in memory than a small multiple of the body, so the parts of the JSON are counted before it is
parsed: sixteen million empty lists in 32 MB would be a gigabyte of objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ..errors import DataError
from ..text import shown
from .tensors import Tensor, describe, to_bytes, to_json

Array = np.ndarray[Any, Any]

JSON, BINARY = "application/json", "application/octet-stream"
JSON_LENGTH = "inference-header-content-length"
"""The header that says how much of the body is JSON, where bytes follow it."""

EXTENSIONS = ("binary_tensor_data",)

MAX_LISTS = 2**17
"""Lists and objects in a request: 64 nested images of 3 x 600 rows."""

MAX_QUOTES = 2**14
"""A request for all inputs and outputs of a model has some hundred."""

_MORE = "See the Open Inference Protocol, and the model's metadata."


@dataclass(frozen=True)
class Asked:
    """An inference request: the inputs by name, and the outputs that are asked for, with whether as bytes."""

    id: str | None
    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool]


def read(body: bytes, json_length: str | None, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Asked:
    """The request in ``body`` to a model that has these ``inputs``, the first of which must be given, and ``outputs``.

    ``json_length`` is the header ``JSON_LENGTH``, if there is one. Raises ``DataError``.
    """
    cut = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdecimal()) or len(json_length) > 12 or int(json_length) > cut:
            raise _bad(f"{JSON_LENGTH} is {shown(json_length)}, of a body of {cut} bytes")
        cut = int(json_length)
    asked, rest = _object(_parse(body[:cut])), memoryview(body)[cut:]
    number = asked.get("id")
    if number is not None and not isinstance(number, str):
        raise _bad("'id' is not a string")
    settings, known, found = _parameters(asked), {tensor.name: tensor for tensor in inputs}, {}
    for item in _named(asked, "inputs", known):
        tensor, size = known[item["name"]], _parameters(item).get("binary_data_size")
        shape = tensor.check(item.get("datatype"), item.get("shape"))
        if size is None:
            found[tensor.name] = tensor.from_json(item.get("data"), shape)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) or "data" in item:
            raise _bad(f"'binary_data_size' of {shown(tensor.name)} does not fit, or there is 'data' too")
        found[tensor.name], rest = tensor.from_bytes(rest[:size], shape), rest[size:]
    if inputs[0].name not in found:
        raise _bad(f"there is no input {shown(inputs[0].name)}")
    if rest:
        raise _bad(f"{len(rest)} bytes belong to no input")
    usual, chosen = _flag(settings, "binary_data_output", default=False), _named(asked, "outputs", outputs)
    wanted = {item["name"]: _flag(_parameters(item), "binary_data", default=usual) for item in chosen}
    return Asked(number, found, wanted or dict.fromkeys(outputs, usual))


def answer(asked: Asked, model: str, version: str, found: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer. Raises ``DataError`` where JSON cannot say a number."""
    said: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id is not None:
        said["id"] = asked.id
    said["outputs"], tail = [], []
    for name, binary in asked.outputs.items():
        output = describe(name, found[name])
        if binary:
            tail.append(to_bytes(found[name]))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = to_json(found[name])
        said["outputs"].append(output)
    head = encode(said)
    if not tail:
        return head, {"content-type": JSON}
    return b"".join((head, *tail)), {"content-type": BINARY, JSON_LENGTH: str(len(head))}


def encode(data: Any) -> bytes:
    """JSON without blanks, in ASCII. Raises ``ValueError`` for NaN and infinity, which it has no word for."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")


def _parse(body: bytes) -> Any:
    if body.count(b"[") + body.count(b"{") > MAX_LISTS or body.count(b'"') > MAX_QUOTES:
        raise _bad("it has more parts than any request")

    try:
        return orjson.loads(body)
    except ValueError as error:  # JSON's grammar and no more of it: no NaN, no comments, no thousand levels
        raise _bad(f"it is not JSON ({error})") from error


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _bad("an object is expected where there is something else")
    return found


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    """``$parameters``: those that the extension does not know are for other servers."""
    made = _object(item.get("parameters", {}))
    if not all(isinstance(value, (str, int, float)) for value in made.values()):
        raise _bad("a parameter is neither a string nor a number nor a boolean")
    return made


def _named(asked: Mapping[str, Any], key: str, known: Sequence[str] | Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list of objects called ``key``, each of which names another of what is ``known``."""
    listed = asked.get(key, [])
    if not isinstance(listed, list):
        raise _bad(f"'{key}' is not a list")
    items, seen = [_object(item) for item in listed], set()
    for item in items:
        name = item.get("name")
        if not isinstance(name, str):
            raise _bad(f"one of the {key} has no name")
        if name not in known:
            raise _bad(f"the model has no {shown(name)} among its {key}")
        if name in seen:
            raise _bad(f"{shown(name)} stands twice among the {key}")
        seen.add(name)
    return items


def _flag(parameters: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise _bad(f"'{key}' is neither true nor false")
    return value


def _bad(why: str) -> DataError:
    return DataError(f"The inference request makes no sense: {why}.", _MORE)
