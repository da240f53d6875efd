"""The service on a device, under the real systemd of its user: started, restarted, and switched under load."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hosts import SYSTEMD, Host, run
from test_deploy_devices import NAME, deployed, release_of, variant

PORT = 8123
SECONDS = 60  # that a service may take to be ready on a busy machine


def ask(host: Host, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host.address, PORT, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_ready(host: Host) -> bool:
    try:
        return ask(host, "GET", "/v2/health/ready")[0] == 200
    except OSError:
        return False


def served(host: Host) -> str:
    """The release that answers."""
    found = re.search(r'release="([0-9a-f]{16})', ask(host, "GET", "/metrics")[1].decode())
    assert found is not None
    return found[1]


def processes(host: Host) -> list[int]:
    """Those of the service."""
    found = []
    for pid in map(int, run("ip", "netns", "pids", host.name).split()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"serve" in words:
            found.append(pid)
    return found


def test_the_service(cli, bundle, machines, options, tmp_path) -> None:
    if not Path(SYSTEMD).exists():
        pytest.skip("not installed: systemd")
    host = machines.host()
    host.start(systemd=True)
    if not host.has_systemd():
        pytest.skip("a user's systemd does not start in a namespace here")
    service = ("--service", "--listen", "0.0.0.0", "--port", str(PORT))
    code, found = deployed(cli, options, bundle, host.login, *NAME, *service)
    assert (code, found[host.login]["state"]) == (0, "active"), found[host.login].get("why")
    wait(lambda: is_ready(host))

    # it answers what ONNX Runtime does
    session = onnxruntime.InferenceSession(str(bundle / "expert.onnx"))
    (given,) = session.get_inputs()
    shape = [each if isinstance(each, int) else 1 for each in given.shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = {"name": given.name, "shape": shape, "datatype": "FP32", "data": x.ravel().tolist()}
    request = json.dumps({"inputs": [tensor]}).encode()
    status, answer = ask(host, "POST", "/v2/models/rainbow/infer", request)
    assert status == 200
    (output,) = json.loads(answer)["outputs"]
    np.testing.assert_allclose(output["data"], session.run(None, {given.name: x})[0].ravel(), rtol=1e-5, atol=1e-6)
    assert served(host) == release_of(bundle)[:16]

    # it is started again when it dies
    (before,) = processes(host)
    os.kill(before, signal.SIGKILL)
    wait(lambda: is_ready(host) and before not in processes(host))

    # another release, while it is asked all the time: nobody is refused
    again = variant(bundle, tmp_path / "again.expert")
    statuses: list[Any] = []
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            try:
                statuses.append(ask(host, "POST", "/v2/models/rainbow/infer", request)[0])
            except OSError as error:
                statuses.append(error)

    asking = [threading.Thread(target=ask_on) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        code, found = deployed(cli, options, again, host.login, *NAME, *service)
        assert (code, found[host.login]["state"]) == (0, "active"), found[host.login].get("why")
        wait(lambda: served(host) == release_of(again)[:16])
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}

    # one that cannot listen is no success, and goes with its expert
    code, found = deployed(cli, options, bundle, host.login, "--name", "second", *service)
    assert (code, found[host.login]["state"]) == (8, "failed")
    assert "The release is active, but: The service does not start (exit-code)." in found[host.login]["why"]
    over = ("--host", host.login, *machines.options)
    assert cli("releases", "remove", "second", "--all", *over).code == 0
    assert [unit.name for unit in (host.home / ".config/systemd/user").glob("*.service")] == ["expertc-rainbow.service"]
    assert is_ready(host)
    assert cli("releases", "remove", "rainbow", "--all", *over).code == 0
    wait(lambda: processes(host) == [])
    host.stop()


def test_a_device_without_systemd(cli, bundle, device: Callable[..., Host], options) -> None:
    """The release is active; that it does not run as a service is said."""
    host = device()
    code, found = deployed(cli, options, bundle, host.login, *NAME, "--service", "--port", str(PORT))
    assert code == 8
    assert "The release is active, but" in found[host.login]["why"]
    assert "systemd" in found[host.login]["why"]
