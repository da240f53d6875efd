"""Another release becomes active while requests come in, the server is told to stop, and what ends it at once."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rainbow import picture
from served import SECONDS, Served, head, served, until, until_closed

from expertc import build
from expertc.bundle import open_bundle, write_bundle
from expertc.errors import BundleError
from expertc.releases import Release, Store
from expertc.serve import current as current_module
from expertc.serve.current import Current
from expertc.serve.metrics import Metrics

WRK = shutil.which("wrk")


@pytest.fixture(scope="module")
def bundles(full: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two that can answer, and one whose model is none."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        name: build(full, classes=name, output=folder / f"{name}.expert", measure_seconds=0).path
        for name in ("warm", "cold")
    }
    old = open_bundle(made["warm"])
    files: dict[str, bytes | Path] = {name: (old.path / name).read_bytes() for name in old.manifest["files"]}
    made["broken"] = write_bundle(folder / "broken.expert", files | {"expert.onnx": b"no model"}, old.manifest, {})
    return made


@pytest.fixture(scope="module")
def store(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    made = Store(folder / "experts")
    for name, path in bundles.items():
        made.install("colours", Path(shutil.copytree(path, folder / name)))
    return made


@pytest.fixture(scope="module")
def activate(store: Store, bundles: dict[str, Path]) -> Callable[[str], str]:
    """Makes the release of that name the active one."""
    from expertc.bundle import MANIFEST
    from expertc.releases import release_id

    def call(name: str) -> str:
        found: Release = store.activate(
            "colours", release_id((bundles[name] / MANIFEST).read_bytes()), force=True
        )  # fmt: skip
        return found.id

    return call


@contextmanager
def serving(store: Store, errors: Path, **environment: str) -> Iterator[Served]:
    with served(
        errors, "colours", f"--store={store.root}", "--timeout=5", "--concurrency=2", **environment
    ) as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def running(
    store: Store, activate: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:  # fmt: skip
    activate("warm")
    with serving(store, tmp_path_factory.mktemp("server") / "err") as found:
        yield found


@pytest.fixture
def server(running: Served, activate: Callable[[str], str]) -> Served:
    """One that answers with the warm release."""
    wanted = activate("warm")
    until(lambda: version(running) == wanted)
    return running


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "photo.png", "reds")


def version(server: Served) -> str:
    (found,) = server.ask("GET", "/v2/models/colours").json["versions"]
    return str(found)


class Load:
    """wrk, which posts a photo over several connections as fast as it can."""

    def __init__(self, server: Served, photo: Path, seconds: int) -> None:
        script = photo.with_suffix(".lua")
        script.write_text(
            f'local file = io.open("{photo}", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\nfile:close()\n'
        )
        url = f"http://{server.host}:{server.port}/predict"
        assert WRK is not None
        self._process = subprocess.Popen(
            [WRK, "-t1", "-c8", f"-d{seconds}s", "--timeout=20s", "-s", str(script), url],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @property
    def goes_on(self) -> bool:
        return self._process.poll() is None

    def report(self) -> tuple[int, str]:
        """How many requests were answered, and what went wrong."""
        out, _ = self._process.communicate(timeout=SECONDS)
        found = re.search(r"(\d+) requests in", out)
        assert found, out
        return int(found[1]), "\n".join(re.findall(r"Socket errors.*|Non-2xx.*", out))


needs_wrk = pytest.mark.skipif(WRK is None, reason="wrk is not installed")


@needs_wrk
def test_no_request_is_dropped_by_a_switch(
    server: Served, activate: Callable[[str], str], photo: Path, bundles: dict[str, Path]
) -> None:
    before, switches = server.metric("expertc_release_switches_total"), 0
    load = Load(server, photo, 5)
    for name in ("cold", "warm", "cold"):
        wanted = activate(name)
        until(lambda wanted=wanted: version(server) == wanted)  # type: ignore[misc]
        switches += 1
        assert load.goes_on
    answered, wrong = load.report()
    assert not wrong
    assert answered > 100
    assert server.metric("expertc_release_switches_total") == before + switches
    assert server.metric("expertc_requests_total", route="predict", status="200") >= answered
    labels = {each["label"] for each in server.ask("POST", "/predict", photo.read_bytes()).json["predictions"]}
    assert labels == {"greens", "blues"}
    assert server.ask("GET", f"/v2/models/colours/versions/{wanted}/ready").status == 200


def test_a_release_that_cannot_be_opened_changes_nothing(
    server: Served, activate: Callable[[str], str], photo: Path, store: Store
) -> None:
    before, failures = version(server), server.metric("expertc_release_failures_total")
    broken = activate("broken")
    until(lambda: server.metric("expertc_release_failures_total") == failures + 1)
    assert (version(server), server.ask("POST", "/predict", photo.read_bytes()).status) == (before, 200)
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert f"{broken} cannot answer, release {before} still does" in server.errors.read_text()
    (store.root / "colours" / "current").unlink()
    (store.root / "colours" / "current").symlink_to("/etc")
    until(lambda: "does not point to a release" in server.errors.read_text())
    time.sleep(2 * current_module.INTERVAL)
    assert version(server) == before
    assert server.errors.read_text().count("does not point to a release") == 1
    (store.root / "colours" / "current").unlink()
    good = activate("cold")
    until(lambda: version(server) == good)
    assert server.metric("expertc_release_failures_total") == failures + 1  # and not one for every look


@needs_wrk
def test_sigterm_under_load_ends_it_well(
    store: Store, activate: Callable[[str], str], photo: Path, tmp_path: Path
) -> None:
    """What has begun is answered, nothing else is taken; and systemd hears of both ends."""
    activate("warm")
    body = photo.read_bytes()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        listener.settimeout(SECONDS)
        listener.bind(str(tmp_path / "notify"))
        server = stack.enter_context(serving(store, tmp_path / "err", NOTIFY_SOCKET=str(tmp_path / "notify")))
        assert listener.recv(100) == b"READY=1"
        load = Load(server, photo, 3)
        until(lambda: server.metric("expertc_requests_total", route="predict", status="200") > 50)
        link = stack.enter_context(server.connect())
        link.sendall(head("POST", "/predict", f"Content-Length: {len(body)}") + body[:10])
        until(lambda: server.metric("expertc_requests_in_flight") >= 2)
        server.process.send_signal(signal.SIGTERM)

        def refuses() -> bool:
            try:
                server.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        until(refuses)
        assert server.process.poll() is None
        link.sendall(body[10:])
        answer = until_closed(link)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"reds"' in answer
        assert server.process.wait(SECONDS) == 0
        assert server.errors.read_text() == "INFO: stopped\n"
        assert listener.recv(100) == b"STOPPING=1"
        answered, wrong = load.report()
    assert answered > 50
    assert "Non-2xx" not in wrong


def test_ctrl_c_ends_it_well(store: Store, activate: Callable[[str], str], tmp_path: Path) -> None:
    activate("warm")
    with serving(store, tmp_path / "err") as server:
        assert server.stop(signal.SIGINT) == 0
        assert server.errors.read_text() == "INFO: stopped\n"


# -- what never begins -------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken(cli, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = cli("serve", bundle, f"--port={port}")
    assert (code, out) == (2, "")
    assert err == (
        f"Error: '127.0.0.1' port {port} cannot be listened on: another process listens there.\n"
        "Choose another with --port or --host.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["no-such-expert"], 3, "No expert called 'no-such-expert' is active here."),
        (["../colours/"], 3, "does not exist"),
        (["No Expert"], 2, "not a name"),
        (["colours", "--host=no.such.host.invalid"], 2, "no name or address of this machine"),
        (["colours", "--host=192.0.2.1"], 2, "no such address"),
        (["colours", "--gain=reds=2"], 2, "no control 'gain'"),
        (["colours", "--threshold=0.5"], 2, "no early exits"),
        (["colours", "--gain=reds"], 2, "is not CLASS=FACTOR"),
        (["colours", "--port=70000"], 2, "70000"),
        (["colours", "--max-body=0"], 2, "max-body"),
    ],
)
def test_what_cannot_be_served(
    cli, store: Store, activate: Callable[[str], str], arguments: list[str], code: int, says: str
) -> None:
    activate("warm")
    found = cli("serve", *arguments, f"--store={store.root}", *([] if "--port=70000" in arguments else ["--port=0"]))
    assert (found.code, found.out) == (code, "")
    assert says in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("missing", ["uvicorn", "starlette", "prometheus_client"])
def test_without_the_extra(cli, bundle: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("expertc.serve.", missing))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    found = cli("serve", bundle, "--port=0")
    assert (found.code, found.out) == (2, "")
    assert found.err == f"Error: This command needs {missing}.\nInstall it with: pip install 'expertc[serve]'.\n"


# -- the change itself, with models that only remember whether they are open -------------------------------------------


class Fake:
    def __init__(self, path: Path) -> None:
        self.path, self.name, self.version, self.platform, self.open = path, "fake", path.name, "none", True
        self.expert = SimpleNamespace(notices=(), close=self._close)

    def _close(self) -> None:
        assert self.open
        self.open = False


def test_an_old_model_is_closed_when_its_last_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes back while somebody still uses it: that is another model then."""
    monkeypatch.setattr(current_module, "INTERVAL", 0.001)
    monkeypatch.setattr(current_module, "RETRY", 0.0)
    made: list[Fake] = []
    where, fails = Path("a"), 3

    def opens(path: Path) -> Any:
        nonlocal fails
        if path.name == "b" and fails:
            fails -= 1
            raise BundleError("not yet")
        made.append(Fake(path))
        return made[-1]

    async def story() -> None:
        nonlocal where
        current = Current(lambda: where, opens, Metrics())
        with current.use() as model:
            assert model is None
        following = asyncio.create_task(current.follow())

        async def reached(count: int) -> None:
            while len(made) < count or current.active is not made[-1]:
                await asyncio.sleep(0.001)

        await reached(1)
        with current.use() as first, current.use():
            assert first is made[0]
            where = Path("b")
            await reached(2)
            assert fails == 0
            where = Path("a")
            await reached(3)
            with current.use() as again:
                assert again is made[2]
            await asyncio.sleep(0.05)
            assert [each.open for each in made] == [True, False, True]
        await asyncio.sleep(0.05)
        assert [each.open for each in made] == [False, False, True]
        following.cancel()
        await current.close()
        assert [each.open for each in made] == [False] * 3

    asyncio.run(story())
