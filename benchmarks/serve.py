"""What a request over HTTP costs beside the call that it makes, and how many there can be.

    pip install '.[serve]'
    python -m benchmarks.serve BUNDLE PHOTO [--seconds 10] [--mlserver PYTHON]

Latencies are those of one client on one connection that is kept, taken in turns with the bare call in this process, so
that whatever else the machine does meets all of them. Throughput is wrk's, over 1 and 8 connections. The peer is
MLServer, Seldon's server of the same protocol, which takes tensors as JSON only: ``--mlserver`` is a Python that has
it, onnxruntime and numpy. Writes results/serve.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime

from expertc import Expert
from expertc.backends.cpu import describe
from expertc.measure import interleave

RESULTS = Path(__file__).parent / "results"

Load = tuple[int, str, bytes, dict[str, str]]
"""Port, path, body and headers of a request."""

START = 120.0  # seconds until a server must answer

PEER = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Plain(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        (scores,) = self.session.run(None, {payload.inputs[0].name: x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
"""


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="an expert without gains")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--mlserver", help="a Python that has MLServer")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        expert = stack.enter_context(Expert.open(given.bundle))
        session = onnxruntime.InferenceSession(str(given.bundle / "expert.onnx"), providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        x = np.random.default_rng(0).standard_normal([axis if isinstance(axis, int) else 1 for axis in image.shape])
        x = x.astype(np.float32)
        photo = given.photo.read_bytes()
        ours, named = stack.enter_context(our_server(given.bundle))
        infer = f"/v2/models/{named}/infer"
        asks: dict[str, Callable[[], object]] = {
            "session.run": lambda: session.run(None, {image.name: x}),
            "GET /v2/health/live": asking(stack, ours, "GET", "/v2/health/live"),
            "infer, bytes": asking(stack, ours, "POST", infer, *as_bytes(image.name, x)),
            "infer, JSON": asking(stack, ours, "POST", infer, as_json(image.name, x)),
            "Expert.predict": lambda: expert.predict(photo, 5),
            "POST /predict": asking(stack, ours, "POST", "/predict", photo),
        }
        loads = {
            "infer, bytes": (ours, infer, *as_bytes(image.name, x)),
            "infer, JSON": (ours, infer, as_json(image.name, x), {}),
            "POST /predict": (ours, "/predict", photo, {}),
        }
        if given.mlserver:
            peer = stack.enter_context(their_server(given.mlserver, folder, given.bundle / "expert.onnx"))
            where = "/v2/models/peer/infer"
            asks["MLServer, JSON"] = asking(stack, peer, "POST", where, as_json(image.name, x))
            loads["MLServer, JSON"] = (peer, where, as_json(image.name, x), {})
        samples = interleave(asks, seconds=given.seconds * len(asks))
        told = describe()
        lines = [f"{told['processor']}, {told['cores']} cores, ONNX Runtime {told['version']}; {named}, one image.", ""]
        lines += ["| one client | median, ms | over the bare call, ms |", "| --- | ---: | ---: |"]
        bare = dict.fromkeys((name for name in asks if "infer" in name or "JSON" in name), "session.run")
        bare["POST /predict"] = "Expert.predict"
        medians = {name: statistics.median(samples.durations(name)) * 1e3 for name in asks}
        for name, median in medians.items():
            over = f"{median - medians[bare[name]]:.3f}" if name in bare else ""
            lines.append(f"| {name} | {median:.3f} | {over} |")
        if shutil.which("wrk"):
            lines += ["", "| wrk | connections | requests a second | went wrong |", "| --- | ---: | ---: | --- |"]
            for connections in (1, 8):
                for name, load in loads.items():
                    rate, wrong = wrk(folder, connections, given.seconds, *load)
                    lines.append(f"| {name} | {connections} | {rate:.0f} | {wrong or 'nothing'} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "serve.md").write_text(text)
    print(text)


def as_json(name: str, x: np.ndarray) -> bytes:
    """An inference request."""
    one = {"name": name, "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [one]}).encode()


def as_bytes(name: str, x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """The same with the tensors behind the JSON, there and back; body and headers."""
    size = {"binary_data_size": x.nbytes}
    one = {"name": name, "shape": list(x.shape), "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def asking(
    stack: ExitStack,
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Callable[[], object]:
    """What asks over a connection of its own, which is kept."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    stack.callback(link.close)
    link.connect()
    link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> bytes:
        link.request(method, path, body, headers or {})
        answer = link.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answers {answer.status}: {found[:300]!r}")
        return found

    return ask


@contextmanager
def our_server(bundle: Path) -> Iterator[tuple[int, str]]:
    """``expertc serve``: its port, and what the model is called."""
    process = subprocess.Popen(
        [sys.executable, "-m", "expertc", "serve", f"{bundle}/", "--port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"Serving (\S+) .*:(\d+)$", line)
        if found is None:
            raise SystemExit("the server did not start")
        yield int(found[2]), found[1]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def their_server(python: str, folder: Path, model: Path) -> Iterator[int]:
    """MLServer in one process, with the same model: its port."""
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    settings = {"parallel_workers": 0, "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
                "host": "127.0.0.1", "debug": False, "use_structured_logging": False}  # fmt: skip
    one = {"name": "peer", "implementation": "plain.Plain", "parameters": {"uri": str(model.resolve())}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(one))
    (folder / "plain.py").write_text(PEER)
    process = subprocess.Popen(
        [str(Path(python).with_name("mlserver")), "start", "."], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)}, stdout=sys.stderr,
    )  # fmt: skip
    try:
        end = time.monotonic() + START
        while True:
            link = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=5)
            try:
                link.request("GET", "/v2/models/peer/ready")
                if link.getresponse().status == 200:
                    break
            except OSError:
                pass
            finally:
                link.close()
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit("MLServer did not start")
            time.sleep(0.5)
        yield ports[0]
    finally:
        process.terminate()
        process.wait()


def wrk(
    folder: Path, connections: int, seconds: float, port: int, path: str, body: bytes, headers: dict[str, str]
) -> tuple[float, str]:
    """Requests a second, and what went wrong."""
    (folder / "body").write_bytes(body)
    said = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    (folder / "ask.lua").write_text(
        f'local file = io.open("{folder}/body", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\n'
        f"file:close()\n{said}"
    )
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(folder / "ask.lua"),
         f"http://127.0.0.1:{port}{path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert found, out
    return float(found[1]), ", ".join(re.findall(r"Socket errors.*|Non-2xx.*", out))


if __name__ == "__main__":
    main()
