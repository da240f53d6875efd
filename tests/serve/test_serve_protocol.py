"""The Open Inference Protocol against its specification, and its numbers against ONNX Runtime's."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exiting
import numpy as np
import onnxruntime
import pytest
from jsonschema import Draft202012Validator
from rainbow import DEFAULT_GAIN, SIDE, rainbow
from served import Served, served

from expertc import __version__, build
from expertc.serve.app import Service
from expertc.serve.current import Current
from expertc.serve.metrics import Metrics
from expertc.serve.settings import Settings
from expertc.serve.tensors import DATATYPES, Tensor
from expertc.serve.work import Work

# The objects of specification/protocol/open_inference_rest.yaml, with all that it requires.
STRING, SHAPE = {"type": "string"}, {"type": "array", "items": {"type": "integer"}}
PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}


def thing(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": required | optional, "required": [*required], "additionalProperties": False,
    }  # fmt: skip


METADATA_TENSOR = thing({"name": STRING, "datatype": {"enum": [*DATATYPES]}, "shape": SHAPE})
TENSORS = {"type": "array", "items": METADATA_TENSOR}
SERVER = thing({"name": STRING, "version": STRING, "extensions": {"type": "array", "items": STRING}})
MODEL = thing(
    {"name": STRING, "platform": STRING},
    versions={"type": "array", "items": STRING}, inputs=TENSORS, outputs=TENSORS,
)  # fmt: skip
OUTPUT = thing(
    {"name": STRING, "shape": SHAPE, "datatype": {"enum": [*DATATYPES]}, "data": {"type": "array"}},
    parameters=PARAMETERS,
)
RESPONSE = thing(
    {"model_name": STRING, "outputs": {"type": "array", "items": OUTPUT}},
    model_version=STRING, id=STRING, parameters=PARAMETERS,
)  # fmt: skip
ERROR = thing({"error": {"type": "string", "minLength": 1}})

INFER = "/v2/models/rainbow/infer"
RNG = np.random.default_rng(0)


def valid(schema: dict[str, Any], found: Any) -> Any:
    Draft202012Validator(schema).validate(found)
    return found


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes of the network with gains, for any number of images."""
    folder = tmp_path_factory.mktemp("gained")
    (folder / "full.onnx").write_bytes(rainbow(gained=True).bytes())
    return build(
        folder / "full.onnx", classes="warm,cold", output=folder / "rainbow.expert", batch=None, measure_seconds=0
    ).path  # fmt: skip


@pytest.fixture(scope="module")
def session(expert: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(expert / "expert.onnx"), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def server(expert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server") / "err", expert, "--max-body=2000000") as found:
        yield found


def image(batch: int = 1) -> np.ndarray:
    return RNG.standard_normal((batch, 3, SIDE, SIDE), np.float32)


def tensor(values: np.ndarray, name: str = "image", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [*values.shape], "datatype": "FP32", "data": values.ravel().tolist()} | more


def data(answer: Any) -> dict[str, np.ndarray]:
    assert answer.status == 200, answer.body
    outputs = valid(RESPONSE, answer.json)["outputs"]
    return {
        each["name"]: np.array(each["data"], DATATYPES[each["datatype"]]).reshape(each["shape"]) for each in outputs
    }


def test_metadata_is_as_specified(server: Served, session: onnxruntime.InferenceSession, expert: Path) -> None:
    about = valid(SERVER, server.ask("GET", "/v2").json)
    assert (about["name"], about["version"]) == ("expertc", __version__)
    model = valid(MODEL, server.ask("GET", "/v2/models/rainbow").json)
    assert model["platform"] == "onnxruntime_onnx"
    for kind, listed in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert {each["name"]: (each["datatype"], each["shape"]) for each in model[kind]} == {
            each.name: ("FP32", [axis if isinstance(axis, int) else -1 for axis in each.shape]) for each in listed
        }
    (version,) = model["versions"]
    assert server.line.startswith(f"Serving rainbow (release {version}) on ")
    assert server.ask("GET", f"/v2/models/rainbow/versions/{version}").json == model


def test_health(server: Served) -> None:
    assert server.ask("GET", "/v2/health/live").json == {"live": True}
    ready = server.ask("GET", "/v2/health/ready")
    assert (ready.status, ready.json["live"], ready.json["ready"]) == (200, True, True)
    assert server.ask("GET", "/v2/models/rainbow/ready").json == {"name": "rainbow", "ready": True}


@pytest.mark.parametrize("form", ["flat", "nested", "binary"])
@pytest.mark.parametrize("batch", [1, 3])
def test_numbers_are_onnx_runtimes(
    server: Served, session: onnxruntime.InferenceSession, form: str, batch: int
) -> None:
    x, gain = image(batch), np.array([0.5, 2, 1, 1.5], np.float32)
    (expected,) = session.run(["scores"], {"image": x, "gain": gain})
    if form == "binary":
        inputs = [
            {"name": name, "shape": [*each.shape], "datatype": "FP32", "parameters": {"binary_data_size": each.nbytes}}
            for name, each in (("gain", gain), ("image", x))
        ]
        text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        answer = server.ask("POST", INFER, text + gain.tobytes() + x.tobytes(), headers)
        assert answer.status == 200, answer.body
        cut = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.body[:cut])["outputs"]
        assert output == {
            "name": "scores", "datatype": "FP32", "shape": [batch, 4], "parameters": {"binary_data_size": 16 * batch},
        }  # fmt: skip
        assert answer.body[cut:] == expected.tobytes()
        return
    nest = {"data": x.tolist()} if form == "nested" else {}
    answer = server.ask("POST", INFER, {"inputs": [tensor(x, **nest), tensor(gain, "gain")]})
    np.testing.assert_array_equal(data(answer)["scores"], expected)


def test_an_input_that_is_left_out_has_its_default(server: Served, session: onnxruntime.InferenceSession) -> None:
    x = image()
    expected = session.run(["scores"], {"image": x, "gain": np.array(DEFAULT_GAIN, np.float32)})[0]
    np.testing.assert_array_equal(data(server.ask("POST", INFER, {"inputs": [tensor(x)]}))["scores"], expected)


@pytest.mark.parametrize("number", ["", "42", "a\nb", "é😀", '"}'])
def test_the_id_comes_back(server: Served, number: str) -> None:
    found = server.ask(
        "POST", INFER, {"id": number, "inputs": [tensor(image())], "parameters": {"a": 1, "b": "c"}}
    ).json
    assert valid(RESPONSE, found)["id"] == number
    assert (found["model_name"], found["model_version"]) == ("rainbow", server.line.split()[3].rstrip(")"))


def test_outputs_can_be_chosen(tmp_path: Path) -> None:
    """Of a network with exits, whose thresholds are set for the server, and for one request."""
    path = exiting.bundle(tmp_path / "exits.expert", "nested")
    session = onnxruntime.InferenceSession(str(path / "expert.onnx"), providers=["CPUExecutionProvider"])
    with served(tmp_path / "err", path, "--exit=3") as server:
        model = server.ask("GET", "/v2/models/exits").json
        names = [each["name"] for each in valid(MODEL, model)["outputs"]]
        assert names == [each.name for each in session.get_outputs()]
        x, where = image(), "/v2/models/exits/infer"
        most = 1e29
        for said, threshold in (
            ({}, (0, 0)),
            ({"threshold": (most, 0)}, (most, 0)),
            ({"threshold": (0, most)}, (0, most)),
        ):
            inputs = [tensor(x), *(tensor(np.array(value, np.float32), name) for name, value in said.items())]
            fed = {"threshold": np.array(threshold, np.float32), "tolerance": np.array([0.25], np.float32)}
            expected = session.run(None, {"image": x, **fed})
            found = data(server.ask("POST", where, {"inputs": inputs}))
            assert [*found] == names
            for value, name in zip(expected, names, strict=True):
                np.testing.assert_array_equal(found[name], value)
                assert found[name].dtype == value.dtype
        chosen = {"inputs": [tensor(x)], "outputs": [{"name": "exit"}, {"name": "scores"}]}
        assert [*data(server.ask("POST", where, chosen))] == ["exit", "scores"]


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor(image()) | changes]}


X = image()
X0 = json.dumps(X.ravel().tolist()[0]).encode()
NO_DATA = {"name": "image", "shape": [*X.shape], "datatype": "FP32"}
MALFORMED: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"id": "\xff"}',
    "a list": [],
    "no inputs": {},
    "inputs that are an object": {"inputs": {"image": 1}},
    "an input that is a number": {"inputs": [1]},
    "an input without a name": {"inputs": [{"shape": [1]}]},
    "a name that is a list": {"inputs": [{"name": ["image"]}]},
    "an unknown input": {"inputs": [tensor(X), tensor(X, "img")]},
    "only an optional input": {"inputs": [tensor(np.ones(4, np.float32), "gain")]},
    "an input twice": {"inputs": [tensor(X), tensor(X)]},
    "half of a surrogate pair": b'{"id": "\\ud800", "inputs": []}',
    "a name twice": b'{"inputs": [], "inputs": []}',
    "another datatype": one(datatype="FP64"),
    "an unknown datatype": one(datatype="fp32"),
    "a datatype that is a list": one(datatype=["FP32"]),
    "another rank": one(shape=[3, SIDE, SIDE]),
    "another side": one(shape=[1, 3, SIDE, SIDE + 1]),
    "a free axis": one(shape=[-1, 3, SIDE, SIDE]),
    "a free axis of no images": one(shape=[-1, 3, SIDE, SIDE], data=[]),
    "no images": one(shape=[0, 3, SIDE, SIDE], data=[]),
    "a fraction": one(shape=[1.0, 3, SIDE, SIDE]),
    "a shape of booleans": one(shape=[True, 3, SIDE, SIDE]),
    "a shape beyond memory": one(shape=[2**62, 3, SIDE, SIDE]),
    "a shape beyond 64 bits": one(shape=[10**400, 3, SIDE, SIDE]),
    "more images than in a call": one(shape=[65, 3, SIDE, SIDE], data=[0] * (65 * 3 * SIDE * SIDE)),
    "too few values": one(data=[0.0] * 191),
    "too many values": one(data=[0.0] * 193),
    "nested otherwise": one(data=np.zeros((3, 1, SIDE, SIDE)).tolist()),
    "ragged": one(data=[*np.zeros((1, 3, SIDE, SIDE)).tolist()[0][:2], [[0]]]),
    "text for a number": one(data=["0"] * 192),
    "a boolean for a number": one(data=[True] * 192),
    "null for a number": one(data=[None] * 192),
    "data that is text": one(data="0" * 192),
    "NaN": json.dumps(one(data=[float("nan")] * 192)).encode(),
    "infinity": json.dumps(one(data=[float("-inf")] * 192)).encode(),
    "beyond FP32": one(data=[1e39] * 192),
    "beyond FP64": json.dumps({"inputs": [tensor(X)]}).encode().replace(X0, b"1e999", 1),
    "a whole number beyond FP64": one(data=[10**400] * 192),
    "a number of a million digits": b'{"inputs": ' + b"1" * 10**6 + b"}",
    "deep": b"[" * 10**5,
    "deep in a tensor": json.dumps(one()).encode().replace(b'"data": [', b'"data": [' + b"[" * 5000),
    "deep in parameters": b'{"parameters": ' + b'{"a":' * 60_000,
    "half a million lists": b"[" + b"[]," * 500_000 + b"[]]",
    "half a million strings": b"[" + b'"a",' * 400_000 + b'""]',
    "an unknown output": one() | {"outputs": [{"name": "logits"}]},
    "an output twice": one() | {"outputs": [{"name": "scores"}] * 2},
    "an output that is a name": one() | {"outputs": ["scores"]},
    "an id that is a number": one() | {"id": 42},
    "parameters that are a list": one() | {"parameters": []},
    "a parameter that is an object": one() | {"parameters": {"a": {}}},
    "bytes that are not there": {"inputs": [NO_DATA | {"parameters": {"binary_data_size": X.nbytes}}]},
    "neither bytes nor data": {"inputs": [NO_DATA]},
    "bytes and data": one(parameters={"binary_data_size": 0}),
    "a size that is negative": one(parameters={"binary_data_size": -1}),
    "a size that is text": one(parameters={"binary_data_size": "768"}),
    "gains that are too many": {"inputs": [tensor(X), tensor(np.ones(5, np.float32), "gain")]},
    "gains out of reach": {"inputs": [tensor(X), tensor(np.full(4, 3e38, np.float32), "gain")]},
}  # fmt: skip


TOO_MANY = ("half a million lists", "half a million strings", "deep in parameters")


@pytest.mark.parametrize("what", MALFORMED)
def test_what_makes_no_sense_is_refused(server: Served, what: str) -> None:
    answer = server.ask("POST", INFER, MALFORMED[what])
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    said = valid(ERROR, answer.json)["error"]
    assert len(said) < 600
    assert ("more parts than any request" in said) == (what in TOO_MANY)  # counted before it is parsed
    assert server.ask("POST", INFER, one()).status == 200


@pytest.mark.parametrize("length", ["", "-1", "x", "1e3", "٣", "9" * 30, "100000", "10"])
def test_a_length_of_the_json_that_makes_no_sense(server: Served, length: str) -> None:
    said = {"Inference-Header-Content-Length": length.encode("utf-8").decode("latin-1")}
    answer = server.ask("POST", INFER, one(), said)
    assert answer.status == 400
    valid(ERROR, answer.json)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/sharks", 404), ("GET", "/v2/models/rainbow/versions/1", 404),
        ("POST", "/v2/models/sharks/infer", 404), ("POST", "/v2/models/rainbow/versions/2/infer", 404),
        ("GET", "/v2/models/../../etc/passwd", 404), ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/%00", 404), ("GET", "/v2/models/%ff%fe", 404), ("GET", "/v2/models/%F0%9F%98%80", 404),
        ("GET", "/v2/models/%E2%80%AE%1b[31m", 404), ("GET", "/" + "a" * 9000, 404), ("GET", "//evil.example/v2", 404),
        ("GET", "/v2/models/rainbow/", 404), ("GET", "/", 404), ("GET", INFER, 405), ("PUT", INFER, 405),
        ("DELETE", "/v2/models/rainbow", 405), ("POST", "/metrics", 405), ("GET", "/predict", 405),
        ("BREW", "/predict", 405),
    ],
)  # fmt: skip
def test_there_is_nothing_else(server: Served, method: str, path: str, status: int) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    said = valid(ERROR, answer.json)["error"]
    assert said.isprintable()
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_reads_what_numpy_holds(datatype: str) -> None:
    kind = np.dtype(DATATYPES[datatype])
    some = np.random.default_rng(1).integers(0, 2 if kind.kind == "b" else 100, (2, 3, 4)).astype(kind)
    if kind.kind in "iu":
        some[0, 0, :2] = np.iinfo(kind).min, np.iinfo(kind).max
    read = Tensor("x", kind, (-1, 3, 4))
    shape = read.check(datatype, [2, 3, 4])
    for form in (some.tolist(), some.ravel().tolist()):
        found = read.from_json(json.loads(json.dumps(form)), shape)
        np.testing.assert_array_equal(found, some)
        assert found.dtype == kind
    np.testing.assert_array_equal(read.from_bytes(memoryview(some.tobytes()), shape), some)


@pytest.mark.parametrize(
    ("datatype", "wrong"),
    [*itertools.product(["UINT8"], [-1, 256, 1.0, True]), ("INT8", 128), ("INT64", 2**63), ("BOOL", 1), ("FP16", 1e5)],
)
def test_a_number_that_a_datatype_does_not_hold(datatype: str, wrong: Any) -> None:
    from expertc.errors import DataError

    with pytest.raises(DataError, match="holds"):
        Tensor("x", np.dtype(DATATYPES[datatype]), (1,)).from_json([wrong], (1,))


async def alone(app: Any, method: str, path: str) -> tuple[int, dict[bytes, bytes], Any]:
    """One request to an ASGI application without a server around it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def test_before_the_model_is_open_it_lives_but_is_not_ready() -> None:
    metrics, settings = Metrics(), Settings()
    service = Service(
        "a", Current(lambda: None, lambda path: pytest.fail("none is open"), metrics), Work(settings), metrics, settings
    )

    async def story() -> None:
        app = service.app()
        assert (await alone(app, "GET", "/v2/health/live"))[::2] == (200, {"live": True})
        assert (await alone(app, "GET", "/v2/health/ready"))[::2] == (503, {"live": True, "ready": False})
        assert (await alone(app, "GET", "/v2/models/a/ready"))[::2] == (503, {"name": "a", "ready": False})
        assert (await alone(app, "GET", "/v2/models/b/ready"))[0] == 404
        for method, path in (("GET", "/v2/models/a"), ("POST", "/v2/models/a/infer"), ("POST", "/predict")):
            status, headers, said = await alone(app, method, path)
            assert (status, headers[b"retry-after"]) == (503, b"1")
            valid(ERROR, said)

    asyncio.run(story())
