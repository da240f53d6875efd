"""Deployments, from the command line to the release that is active on real devices; and all that may go wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import Host, Network

from expertc.bundle import open_bundle
from expertc.compiler import build
from expertc.deploy import transport
from expertc.releases import Store
from expertc.runtime import Expert

Device = Callable[..., Host]


@pytest.fixture(scope="module")
def other(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of other classes."""
    place = tmp_path_factory.mktemp("other") / "cold.expert"
    return build(full, classes="cold", output=place, measure_seconds=0).path


def variant(bundle: Path, place: Path, **changes: Any) -> Path:
    """The same expert, whose manifest says something else: another release of the same files."""
    shutil.copytree(bundle, place)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "name": "variant", **changes}))
    return place


def release_of(bundle: Path) -> str:
    return sha256((bundle / "manifest.json").read_bytes()).hexdigest()[:16]


def active(host: Host, name: str = "rainbow") -> str | None:
    """The release that a device would run, which is whole."""
    path = Store(host.data / "experts").current(name)
    if path is None:
        return None
    open_bundle(path)
    return path.name


def deployed(cli: Any, options: tuple[str, ...], *given: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    found = cli("deploy", *given, *options, "--json")
    return found.code, {each["host"]: each for each in json.loads(found.out)["devices"]}


NAME = ("--name", "rainbow")


# -- as it should be ---------------------------------------------------------------------------------------------------


def test_the_whole_road(cli, bundle, machines: Network, settled: Host, options) -> None:
    """A device that had nothing but Python and SSH runs the expert, and gives what it gives here."""
    release = active(settled, "first")
    assert release == release_of(bundle)
    record = json.loads((settled.data / f"experts/first/records/{release}.json").read_text())
    assert record["accepted"] is True
    assert record["verified"]["passed"] is True
    assert record["bench"]["count"] > 0
    assert record["device"]["expertc"]
    assert (settled.data / "envs/current/ready").exists()
    files = [path for path in settled.data.rglob("*") if path.is_file() and "site-packages" not in path.parts]
    secret = machines.identity.read_bytes().splitlines()[1]
    assert not [path for path in files if secret in (text := path.read_bytes()) or b"PRIVATE KEY" in text]
    assert str(machines.identity) not in json.dumps(record)
    x = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with Expert.open(bundle) as here, Expert.open(settled.data / f"experts/first/releases/{release}") as there:
        x = x.reshape(1, -1)[:, : int(np.prod(here.session.input_shape[1:]))].reshape(1, *here.session.input_shape[1:])
        np.testing.assert_array_equal(here.scores(x), there.scores(x))


def test_private_and_read_only(settled: Host) -> None:
    release = settled.data / "experts/first/releases" / str(active(settled, "first"))
    assert {path.stat().st_mode & 0o777 for path in release.iterdir()} == {0o400}
    for folder in (settled.data, release, release.parent):
        assert folder.stat().st_mode & 0o077 == 0


def test_nothing_to_do_the_second_time(cli, bundle, device: Device, options) -> None:
    host = device()
    code, found = deployed(cli, options, bundle, host.login, *NAME)
    assert (code, found[host.login]["state"]) == (0, "active")
    code, found = deployed(cli, options, bundle, host.login, *NAME)
    assert (code, found[host.login]["state"], found[host.login]["sent_bytes"]) == (0, "unchanged", 0)


def test_only_what_changed_travels(cli, bundle, device: Device, options, tmp_path) -> None:
    host = device()
    deployed(cli, options, bundle, host.login, *NAME)
    again = variant(bundle, tmp_path / "again.expert")
    code, found = deployed(cli, options, again, host.login, *NAME)
    assert (code, found[host.login]["state"]) == (0, "active")
    unlisted = [again / name for name in ("manifest.json", "report.json", "golden.npz")]
    assert found[host.login]["sent_bytes"] <= sum(path.stat().st_size for path in unlisted)
    assert active(host) == release_of(again)


def test_what_is_damaged_is_brought_again(cli, bundle, device: Device, options) -> None:
    host = device()
    deployed(cli, options, bundle, host.login, *NAME)
    model = host.data / "experts/rainbow/current/expert.onnx"
    content = bytearray(model.read_bytes())
    content[100] ^= 1
    model.chmod(0o600)
    model.write_bytes(content)
    code, found = deployed(cli, options, bundle, host.login, *NAME)
    assert (code, found[host.login]["state"], active(host)) == (0, "active", release_of(bundle))
    assert deployed(cli, options, bundle, host.login, *NAME)[1][host.login]["state"] == "unchanged"


def test_a_limit_counts_for_what_is_active_too(cli, bundle, device: Device, options) -> None:
    host = device()
    deployed(cli, options, bundle, host.login, *NAME)
    code, found = deployed(cli, options, bundle, host.login, *NAME, "--max-p90-ms", "0.000001")
    assert (code, found[host.login]["state"], active(host)) == (8, "refused", release_of(bundle))
    assert "is active since" in found[host.login]["why"]
    assert deployed(cli, options, bundle, host.login, *NAME, "--max-p90-ms", "100000")[0] == 0


def test_several_devices_and_what_a_person_sees(cli, bundle, device: Device, options) -> None:
    hosts = [device(), device()]
    code, out, err = cli("deploy", bundle, *(host.login for host in hosts), *NAME, *options)
    assert (code, err) == (0, "")
    assert all(re.search(rf"{re.escape(host.login)} +rainbow +{release_of(bundle)[:8]} +active", out) for host in hosts)
    assert max(map(len, out.splitlines())) <= 80
    assert [active(host) for host in hosts] == [release_of(bundle)] * 2


def test_on_a_terminal_each_device_has_a_line(bundle, other, device: Device, options) -> None:
    hosts = [device(), device()]
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "expertc", "deploy", bundle, *(host.login for host in hosts), *NAME, *options]
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        os.close(terminal)
        seen = b""
        with suppress(OSError), open(main, "rb", buffering=0) as screen:  # EIO is its end
            while part := screen.read(4096):
                seen += part
        assert process.stdout is not None
        assert b"active" in process.stdout.read()
    assert process.returncode == 0
    for host in hosts:
        assert re.search(rf"{re.escape(host.login)}.*(send|verify|bench)", seen.decode("utf-8", "replace"))


def test_a_device_without_the_engine_of_its_target(cli, full: Path, device: Device, options, tmp_path) -> None:
    """It runs on the processor, and whoever deploys is told."""
    built = build(full, classes="warm", target="orin-nano-8gb", output=tmp_path / "orin.expert", measure_seconds=0)
    host = device()
    code, out, _ = cli("deploy", built.path, host.login, *NAME, *options)
    assert (code, active(host)) == (0, release_of(built.path))
    assert "runs on the processor with ONNX Runtime" in " ".join(out.split())


# -- what is not good enough -------------------------------------------------------------------------------------------


def test_too_slow_is_not_activated(cli, bundle, other, device: Device, options) -> None:
    host = device()
    deployed(cli, options, bundle, host.login, *NAME)
    code, found = deployed(cli, options, other, host.login, *NAME, "--max-p90-ms", "0.000001")
    assert (code, found[host.login]["state"]) == (8, "refused")
    assert "ms" in found[host.login]["why"]
    assert active(host) == release_of(bundle)
    code, found = deployed(cli, options, other, host.login, *NAME)
    assert (code, active(host)) == (0, release_of(other))


def test_other_answers_than_where_it_was_built_are_not_activated(cli, bundle, other, device: Device, options, tmp_path):
    """The golden record of another expert: as if the device computed otherwise."""
    host = device()
    deployed(cli, options, other, host.login, *NAME)
    wrong = variant(bundle, tmp_path / "wrong.expert")
    golden = dict(np.load(wrong / "golden.npz"))
    golden["output_0"] = golden["output_0"] + np.float32(1)
    np.savez_compressed(wrong / "golden.npz", **golden)
    code, found = deployed(cli, options, wrong, host.login, *NAME)
    assert (code, found[host.login]["state"]) == (8, "refused")
    assert "what it did where it was built" in found[host.login]["why"]
    assert active(host) == release_of(other)


# -- what breaks: a clear line for that host, and the others are served ------------------------------------------------


def python(text: str) -> dict[str, str]:
    """What a device has for a Python."""
    return {"python3": f"#!/bin/sh\n{text}\n"}


def old(version: str) -> str | None:
    return next((f'exec {path} "$@"' for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")), None)


def test_all_that_is_bad_at_once(cli, bundle, machines: Network, device: Device, options, monkeypatch) -> None:
    """Each ends in one clear line of its own; the good one, and the slow one, are served."""
    monkeypatch.setattr(transport.Ssh, "__init__", _impatient(transport.Ssh.__init__))
    stranger, impostor, good = device(known=False), device(known=False), device()
    machines.know(impostor, machines.identity.with_suffix(".pub").read_text())
    slow = device(path=python(f'sleep 3\nexec {os.path.realpath(sys.executable)} "$@"'))
    bad = {
        stranger: r"is not in .*known_hosts",
        impostor: r"is not the one in",
        device(tmpfs="100k"): r"[Dd]isk",
        device(path=python("echo Welcome!; exec sleep 60")): r"is not a message of expertc: 'Welcome!'",
        device(path=python("exec head -c 9999999 /dev/urandom")): r"What .* says is|longer than",
        device(path=python("exit 1")): r"ended: exit status 1",
        device(path=python("exec no-such-python")): r"no such program",
        device(path=python("exec sleep 60")): r"has said nothing for 8 s",
    }
    for version in ("3.6", "3.9"):  # as far as they are here; what they are sent is read with their grammar elsewhere
        if text := old(version):
            bad[device(path=python(text))] = rf"{re.escape(version)}.*3\.10"
    hosts = [*bad, slow, good]
    code, found = deployed(cli, options, bundle, *(host.login for host in hosts), *NAME, "--at-once", len(hosts))
    assert code == 8
    for host in (slow, good):
        assert found[host.login]["state"] == "active"
        assert active(host) == release_of(bundle)
    assert found[slow.login]["seconds"] > 3
    for host, problem in bad.items():
        about = found[host.login]
        assert about["state"] == "failed"
        assert re.search(problem, f"{about['why']} {about['hint']}"), about
        assert about["hint"]
        assert "\n" not in about["why"] + about["hint"]
        assert "Traceback" not in about["why"] + about["hint"]
        assert active(host) is None


def _impatient(before: Callable[..., None]) -> Callable[..., None]:
    return lambda self, *given: before(self, *given, 15.0, 8.0)


def test_a_connection_that_breaks_off_half_way(cli, bundle, device: Device, options, tmp_path) -> None:
    """What was sent is not sent again."""
    big = variant(bundle, tmp_path / "big.expert")
    ballast = np.random.default_rng(0).bytes(24 * 2**20)
    (big / "ballast.bin").write_bytes(ballast)
    manifest = json.loads((big / "manifest.json").read_text())
    manifest["files"]["ballast.bin"] = {"bytes": len(ballast), "sha256": sha256(ballast).hexdigest()}
    (big / "manifest.json").write_text(json.dumps(manifest))
    bad, good = device(), device()
    part = f"incoming/{release_of(big)}/ballast.bin.part"

    def cut() -> None:
        while not (bad.data / part).exists() or (bad.data / part).stat().st_size < 2**21:
            time.sleep(0.001)
        bad.cut_off()

    watcher = threading.Thread(target=cut)
    watcher.start()
    code, found = deployed(cli, options, big, bad.login, good.login, *NAME)
    watcher.join()
    assert (code, found[bad.login]["state"], found[good.login]["state"]) == (8, "failed", "active")
    assert "broke off" in found[bad.login]["why"]
    there = (bad.data / part).stat().st_size
    assert 2**21 <= there < len(ballast)
    code, again = deployed(cli, options, big, bad.login, *NAME)
    assert (code, active(bad)) == (0, release_of(big))
    assert again[bad.login]["sent_bytes"] <= len(ballast) - there + 2**20


def test_killed_at_any_moment(bundle, other, device: Device, options) -> None:
    """The deploying process dies by SIGKILL: what is active on the device is whole, and the next one succeeds."""
    host = device()
    random = np.random.default_rng()
    command = [sys.executable, "-m", "expertc", "deploy"]
    for number in range(4):
        process = subprocess.Popen(
            [*command, (bundle, other)[number % 2], host.login, *NAME, *options, "--quiet"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        try:
            process.wait(random.uniform(0.5, 6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert active(host) in (None, release_of(bundle), release_of(other))
    done = subprocess.run([*command, bundle, host.login, *NAME, *options, "--quiet"], env={
        **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)})  # fmt: skip
    assert done.returncode == 0
    assert active(host) == release_of(bundle)


# -- fleets ------------------------------------------------------------------------------------------------------------


def test_a_fleet(cli, full: Path, device: Device, options, tmp_path) -> None:
    """One model, cut differently for two groups; what failed is finished by the next run, and nothing else is done."""
    reds, blues, dead = device(), device(), device()
    dead.stop()
    (tmp_path / "fleet.toml").write_text(
        f'model = "{full}"\nverify = "fast"\n'
        f'[groups.warm]\nhosts = ["{reds.login}", "{dead.login}"]\nclasses = "warm"\n'
        f'[groups.cold]\nhosts = ["{blues.login}"]\nclasses = ["cold"]\n'
    )
    code, out, err = cli("deploy", "--fleet", tmp_path / "fleet.toml", "--plan")
    assert (code, err) == (0, "")
    assert "Nothing was connected to" in out
    assert not (tmp_path / "fleet.bundles").exists()
    code, found = deployed(cli, options, "--fleet", tmp_path / "fleet.toml")
    assert code == 8
    assert {host: each["state"] for host, each in found.items()} == {
        reds.login: "active", dead.login: "failed", blues.login: "active",
    }  # fmt: skip
    dead.start()
    code, found = deployed(cli, options, "--fleet", tmp_path / "fleet.toml")
    assert code == 0
    assert {host: each["state"] for host, each in found.items()} == {
        reds.login: "unchanged", dead.login: "active", blues.login: "unchanged",
    }  # fmt: skip
    labels = {host.login: open_bundle(Store(host.data / "experts").current(name)).labels
              for host, name in ((reds, "warm"), (blues, "cold"))}  # type: ignore[arg-type] # fmt: skip
    assert not set(labels[reds.login]) & set(labels[blues.login])


def test_a_group_that_cannot_be_cut_is_named(cli, full: Path, tmp_path, machines: Network) -> None:
    """And nothing was connected to."""
    (tmp_path / "fleet.toml").write_text(
        f'model = "{full}"\n[groups.a]\nhosts = ["nobody"]\nclasses = "warm"\n'
        '[groups.b]\nhosts = ["nobody"]\nclasses = "polar-bears"\n'
    )
    for plan in ((), ("--plan",)):
        code, out, err = cli("deploy", "--fleet", tmp_path / "fleet.toml", *machines.options, *plan)
        assert (code, out) == (2, "")
        assert "Group b: " in err
        assert "polar-bears" in err


@pytest.mark.parametrize(
    ("line", "code", "problem"),
    [
        ('target = "nope"', 2, "nope"),
        ('precision = "fp7"', 2, "fp7"),
        ('verify = "x"', 2, "no verification level 'x'"),
        ('model = "no.onnx"', 3, "no.onnx"),
        ('data = "nowhere"', 2, "nowhere"),
    ],
)
def test_a_plan_that_cannot_be(cli, full: Path, tmp_path, line: str, code: int, problem: str) -> None:
    model = "" if line.startswith("model") else f'model = "{full}"\n'
    (tmp_path / "fleet.toml").write_text(f'{line}\n{model}[groups.a]\nhosts = ["nobody"]\nclasses = "warm"\n')
    found = cli("deploy", "--fleet", tmp_path / "fleet.toml", "--plan")
    assert (found.code, found.out) == (code, "")
    assert problem in found.err


def test_one_device_for_two_experts(cli, bundle, other, tmp_path, device: Device, options) -> None:
    """Each has a line of its own that says why."""
    dead = device()
    dead.stop()
    (tmp_path / "fleet.toml").write_text(
        f'[groups.a]\nhosts = ["{dead.login}"]\nbundle = "{bundle}"\n'
        f'[groups.b]\nhosts = ["{dead.login}"]\nbundle = "{other}"\n'
    )
    code, out, err = cli("deploy", "--fleet", tmp_path / "fleet.toml", *options)
    assert code == 8
    assert f"2 of 2 deployments failed: {dead.login} a, {dead.login} b." in err
    assert len(re.findall(rf"^{re.escape(dead.login)} [ab]:? ", out, re.MULTILINE)) == 2


def test_failures_are_named(cli, bundle, device: Device, options) -> None:
    dead = device()
    dead.stop()
    code, out, err = cli("deploy", bundle, dead.login, *NAME, *options)
    assert code == 8
    assert "cannot be reached" in out or "does not answer" in out
    assert err.endswith(f"1 of 1 deployments failed: {dead.login}.\n")
    assert max(map(len, out.splitlines())) <= 80


# -- what is wrong before anything is connected to ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code", "problem"),
    [
        ((), 2, "Say what to deploy"),
        (("{bundle}",), 2, "Say what to deploy"),
        (("{bundle}", "a b"), 2, "not the address"),
        (("{bundle}", "cam", "cam"), 2, "given twice"),
        (("nothing.expert", "cam"), 3, "does not exist"),
        (("{bundle}", "cam", "--name", "../x"), 2, "not a name for an expert"),
        (("{bundle}", "cam", "--python", "python3;x"), 2, "not the name of a Python"),
        (("{bundle}", "cam", "--at-once", "0"), 2, "at_once is 0"),
        (("{bundle}", "cam", "--wheel", "x.zip"), 2, "not a wheel"),
        (("{bundle}", "cam", "--wheelhouse", "nowhere"), 2, "not a folder"),
        (("{bundle}", "cam", "--identity", "nowhere"), 2, "not a file"),
        (("{bundle}", "cam", "--group", "x"), 2, "for a fleet"),
        (("--fleet", "nowhere.toml"), 2, "nowhere.toml"),
        (("{bundle}", "cam", "--fleet", "nowhere.toml"), 2, "A fleet says"),
    ],
)
def test_bad_input(cli, bundle, tmp_path, monkeypatch, given, code: int, problem: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = cli("deploy", *(text.format(bundle=bundle) for text in given))
    assert found.code == code
    assert problem in found.err
    assert list(tmp_path.iterdir()) == []


# -- looking and switching from here -----------------------------------------------------------------------------------


def test_releases_of_a_device(cli, bundle, other, machines: Network, device: Device, options) -> None:
    host = device()
    over = ("--host", host.login, *machines.options)
    (host.data / "envs/current").unlink()
    code, _, err = cli("releases", "list", *over)
    assert code == 8
    assert f"Nothing was deployed to {host.login} yet." in err
    assert f"expertc deploy BUNDLE {host.login}" in err
    for each in (bundle, other):
        assert deployed(cli, options, each, host.login, *NAME)[0] == 0
    found = json.loads(cli("releases", "list", *over, "--json").out)
    assert [(each["id"], each["active"]) for each in found] == [(release_of(other), True), (release_of(bundle), False)]
    code, out, _ = cli("releases", "rollback", "rainbow", *over)
    assert (code, release_of(bundle) in out, active(host)) == (0, True, release_of(bundle))
    assert cli("releases", "activate", "rainbow", release_of(other)[:8], *over).code == 0
    assert active(host) == release_of(other)
    code, _, err = cli("releases", "remove", "rainbow", release_of(other), *over)
    assert "is active" in err
    assert code == 2
    assert cli("releases", "gc", "rainbow", "--keep", "0", *over).code == 0
    assert not (host.data / "experts/rainbow/releases" / release_of(bundle)).exists()
    code, out, _ = cli("doctor", *over)
    assert code == 0
    assert "onnxruntime" in out
    assert cli("releases", "list", *over, "--store", "x").code == 2
