"""``expertc doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..deploy.transport import Ssh


@click.command(epilog=options.example("expertc doctor", "expertc doctor --host jetson@10.0.0.5"))
@click.option("--host", metavar="USER@HOST", help="Look at a device that something was deployed to, over SSH.")
@options.ssh
@options.as_json
@options.everywhere
def command(
    host: str | None, ssh_config: str | None, known_hosts: str | None, identity: str | None, as_json: bool
) -> int:
    """Check this machine: versions, backends, memory, and that the bundled model can be cut and run here.

    The exit code is that of the self-test, which is not run on another device: each release was verified there.
    """
    from ..device import describe

    if host is None:
        facts = _told(describe(Path.cwd()))
        facts["self-test"], code = _self_test()
    else:
        facts, code = _there(host, options.make_ssh(ssh_config, known_hosts, identity)), 0
    if as_json:
        show.json_out(facts)
    else:
        show.facts({key: str(value) for key, value in facts.items()})
    return code


def _there(host: str, ssh: Ssh) -> dict[str, Any]:
    """What a device says of itself."""
    from ..deploy.address import Address
    from ..deploy.remote import RemoteStore
    from ..errors import DeploymentError

    found = RemoteStore(Address.parse(host), ssh).facts()
    try:
        return _told(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DeploymentError(f"{host} describes itself oddly.", "Use the same expertc on both sides.") from error


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """The facts by the names, and in the words, that a person reads."""
    facts: dict[str, Any] = {
        "expertc": found["expertc"],
        "python": f"{found['python']} ({found['executable']})",
        "system": found["system"],
        "cores": found["cores"],
        "memory": "not known" if found["memory"] is None else show.size(found["memory"]),
        "disk free here": show.size(found["disk_free"]),
    }
    facts |= {name: version or "missing" for name, version in found["packages"].items()}
    facts["onnxruntime providers"] = ", ".join(found["providers"])
    for extra, packages in found["extras"].items():
        here = [f"{name} {version}" for name, version in packages.items() if version]
        facts[f"extra {extra}"] = ", ".join(here) or f"not installed (pip install 'expertc[{extra}]')"
    jetson, gpus = found["jetson"], found["gpus"]
    if jetson is not None:
        told = (jetson["model"], *(f"{name} {jetson[key]}" for name, key in _PARTS.items() if jetson[key]))
        facts["Jetson"] = ", ".join(filter(None, told))
        facts["target"] = jetson["target"] or "no profile fits it: --target gpu"
    facts["NVIDIA driver"] = " ".join(found["driver"].values())
    if gpus:
        facts["GPU"] = ", ".join(f"{each['name']} (SM {each['sm']}, {show.size(each['memory'])})" for each in gpus)
    facts["TensorRT"] = " ".join(found["tensorrt"].values())
    return facts


_PARTS = {"JetPack": "jetpack", "L4T": "linux"}


def _self_test() -> tuple[str, int]:
    """Cut two classes out of the bundled model, in a folder of its own, and verify them; with the exit code."""
    from tempfile import TemporaryDirectory

    from ..compiler import build
    from ..errors import ExitCode, ExpertcError

    try:
        with TemporaryDirectory(prefix="expertc-doctor-") as folder:
            built = build(classes="#0,#1", output=Path(folder) / "self-test.expert", measure_seconds=0)
    except ExpertcError as error:
        return f"FAILED: {error.message} {error.hint}", int(error.exit_code)
    if built.certificate.verdict != "verified":
        return f"FAILED: the certificate says '{built.certificate.verdict}'", int(ExitCode.VERIFICATION)
    return "ok: two classes cut, verified and run", int(ExitCode.OK)
