"""The TensorRT and the GPU of this machine, and whether a bundle is for them.

Nothing of TensorRT or CUDA is imported before somebody asks. The driver is asked first: without one, TensorRT ends the
process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

from .bundle import DEVICE, MANIFEST, Bundle
from .errors import BundleError, DeviceMismatchError, InvalidArtifactError, UnsupportedError
from .targets import Fact, Release, Target, load_target, parse_target
from .text import shown

if TYPE_CHECKING:
    from .backends.tensorrt.identity import Identity


@dataclass(frozen=True)
class Here:
    """The TensorRT and the GPU of this machine."""

    trt: ModuleType
    release: Release
    identity: Identity


def probe() -> Here:
    """What there is here. Raises ``UnsupportedError``, saying what to install, if an engine could not run."""
    from .backends.tensorrt import library
    from .backends.tensorrt.driver import open_driver
    from .backends.tensorrt.identity import identity

    driver = open_driver()
    trt = library.load()
    return Here(trt, library.version(trt), identity(trt, driver))


def target_of(bundle: Bundle) -> Target:
    """The device that a bundle is for, as it says itself; the profile need not be here.

    Raises ``BundleError`` if that makes no sense.
    """
    data, name = bundle.manifest.get(DEVICE), str(bundle.manifest.get("target"))
    if data is None:  # in a bundle of before
        return load_target(name)
    try:
        return parse_target(name, data if isinstance(data, dict) else {}, bundle.path / MANIFEST)
    except InvalidArtifactError as error:
        raise BundleError(error.message, "Build the bundle again.") from error


def as_here(target: Target) -> Target:
    """``target`` with its TensorRT, where the profile leaves that to what is installed ("gpu").

    If none is, an expert for it keeps to the opset of the oldest one that is supported.
    """
    if target.is_host or target.max_opset is not None:
        return target
    from .backends.tensorrt import library
    from .lint import ceiling

    facts: dict[str, Fact]
    try:
        known, source = library.version(library.load()), "the TensorRT of the machine that built it"
        facts = {"max_opset": ceiling(known), "tensorrt_min": ".".join(map(str, known))}
    except UnsupportedError:
        facts, source = {"max_opset": ceiling(library.OLDEST)}, "the oldest TensorRT, as none was there to ask"
    return replace(target, facts={**facts, **target.facts}, sources={**dict.fromkeys(facts, source), **target.sources})


def require_tensorrt(bundle: Bundle, target: Target) -> None:
    """Raise ``UnsupportedError`` for a bundle that is for another backend."""
    if target.backend != "tensorrt":
        raise UnsupportedError(
            f"The bundle {shown(bundle.path)} is for '{target.name}', which runs {target.backend} and no TensorRT.",
            "Build it with --target gpu, or for one of the devices that 'expertc targets' lists.",
        )


def require_device(target: Target, here: Here, *, strict: bool = False) -> tuple[str, ...]:
    """What is to be said of the target and this machine; ``DeviceMismatchError`` if they are not the same."""
    sm, oldest = target.facts.get("sm"), target.tensorrt_min
    if sm is not None and sm != here.identity.sm:
        raise DeviceMismatchError(
            f"The expert was built for '{target.name}', of SM {sm}; here is {here.identity.device}, of SM "
            f"{here.identity.sm}.",
            "Compile it on that device, or build it for this one: expertc build --target gpu",
        )
    if oldest is None or here.release >= oldest:
        return ()
    said = f"TensorRT {here.identity.tensorrt} is older than what '{target.name}' is known with."
    if strict:
        raise DeviceMismatchError(said, f"Install TensorRT {target.facts['tensorrt_min']}, or leave out --strict.")
    return (said,)
