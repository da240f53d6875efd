"""Bring expertc onto a device: this one file is sent there and run with its ``python3``; nothing else need be there.

Standard library only, and the grammar of Python 3.6, so that an interpreter that is too old can say so. It hears and
answers what ``protocol`` describes: ``facts`` and ``install``. Under ``~/.local/share/expertc``::

    wheels/ENV/*.whl   what the host sent, FILE.part until its hash was found right; gone once it is installed
    envs/ENV/          the virtual environment; a file "ready" in it is written last
    .lock              held (flock) by who installs, pip included: it may outlive this process
"""

import collections
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Say = Callable[..., None]  # (stage, share=None)

PROTOCOL = 1
MAX_LINE = 2**20  # bytes of a request
OLDEST = (3, 10)
ROOT = os.path.join("~", ".local", "share", "expertc")

UNPACKED = 4  # times the size of the wheels: those of the base install take 3.7 together (benchmarks/wheels.py)
PIP_BYTES = 32 * 2**20  # of an environment with nothing but pip: 26 MB (likewise), and what it writes meanwhile
TOLD = 300  # characters of pip's complaint

TAGS = {"UsageError": 2, "UnsupportedError": 4, "DeploymentError": 8, "FileSystemError": 9}

_ENV = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WHEEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,195}\.whl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXTRA = re.compile(r"[a-z][a-z0-9-]{0,31}")


class Failure(Exception):
    """What ends a request: the name of an error of expertc, what is wrong, and what to do."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        Exception.__init__(self, message)
        self.told = {"kind": kind, "message": message, "hint": hint, "exit_code": TAGS[kind]}


# -- hearing and answering (the agent's too) ---------------------------------------------------------------------------


def listen(version: "str | None", answer: "Callable[[bytes, Say], dict[str, Any]]") -> int:
    """Greet, then answer line by line until standard input ends; the exit code.

    ``answer`` is given a line and what tells progress, and returns the message that ends the answer. When the input
    ends while it works, the process ends at once, and so do the programs that it started with ``run``. Whatever else is
    printed goes to standard error.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    os.umask(0o077)

    def tell(message: "dict[str, Any]") -> None:
        left = json.dumps(message, allow_nan=False).encode("ascii") + b"\n"
        while left:
            left = left[os.write(out, left) :]

    def say(stage: str, share: "float | None" = None) -> None:
        tell({"said": stage, "share": share})

    lines = queue.Queue(64)  # type: queue.Queue[bytes | None]
    threading.Thread(target=_hear, args=(lines,), daemon=True).start()
    try:
        tell({"expertc": version, "protocol": PROTOCOL})
        for line in iter(lines.get, None):
            if len(line) > MAX_LINE:
                told = Failure("UsageError", "The request is longer than 1 MiB.", "Update expertc on both sides.").told
                tell({"failed": told})
                return 2
            message = answer(line, say)
            lines.task_done()
            tell(message)
    except BrokenPipeError:
        return 1
    return 0


def _hear(lines: "queue.Queue[bytes | None]") -> None:
    rest = b""
    while len(rest) <= MAX_LINE:
        data = os.read(0, 2**16)
        if not data:
            if lines.unfinished_tasks:
                _end()
            lines.put(None)
            return
        parts = (rest + data).split(b"\n")
        rest = parts.pop()
        for line in parts:
            lines.put(line)
    lines.put(rest)


_running = []  # type: list[subprocess.Popen[bytes]]


def _end() -> None:
    """Nobody listens any more: end the programs that were started, and this process."""
    for process in _running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(1)


def run(command: "list[str]", folder: str, lock: int, heard: "Callable[[str], None]") -> int:
    """Run a program in ``folder`` that holds the lock while it lives; its lines are ``heard``, its status returned."""
    with subprocess.Popen(  # noqa: S603 (an argument list that starts with an interpreter of ours)
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, pass_fds=(lock,),
    ) as process:  # fmt: skip
        _running.append(process)
        for line in process.stdout or ():
            heard(line.decode("utf-8", "replace").strip())
    _running.remove(process)
    return process.returncode


# -- requests ----------------------------------------------------------------------------------------------------------


def answer(line: bytes, say: "Say") -> "dict[str, Any]":
    """The message that ends the answer to a request."""
    try:
        if sys.version_info < OLDEST:
            raise Failure(
                "UnsupportedError",
                f"Python {platform.python_version()} on the device is too old: expertc needs 3.{OLDEST[1]} or newer.",
                "Install a newer one beside it, and name it for this host (such as python3.10).",
            )
        request = _request(line)
        place = Place(request["env"], request["wheels"])
        if request["do"] == "facts":
            return {"done": facts(place)}
        return {"done": install(place, request.get("offline", False), request.get("extras", []), say)}
    except Failure as failure:
        return {"failed": failure.told}
    except OSError as error:
        return {"failed": _unwritable(error).told}


def _request(line: bytes) -> "dict[str, Any]":
    """The request in a line; ``Failure`` if it makes no sense."""
    try:
        request = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        request = None
    odd = _odd(request) if isinstance(request, dict) else "it is no JSON object"
    if odd:
        raise Failure("UsageError", f"The request makes no sense: {odd}.", "Use the same expertc on both sides.")
    return request  # type: ignore[no-any-return]


def _odd(request: "dict[str, Any]") -> str:
    """What is wrong with a request, "" if nothing is."""
    known = {"facts": {"do", "env", "wheels"}, "install": {"do", "env", "wheels", "offline", "extras"}}
    verb, env, wheels, extras = request.get("do"), request.get("env"), request.get("wheels"), request.get("extras", [])
    if not isinstance(verb, str) or verb not in known:
        return "there is no such verb"
    if set(request) - known[verb]:
        return f"{verb} has no such fields"
    if not isinstance(env, str) or not _ENV.fullmatch(env):
        return "env is no plain name"
    if not isinstance(wheels, dict) or not 0 < len(wheels) <= 500:
        return "wheels does not name 1 to 500 files"
    for name, about in wheels.items():
        if not _WHEEL.fullmatch(name):
            return "a wheel has no plain name"
        if not isinstance(about, list) or len(about) != 2 or type(about[0]) is not int or not 0 < about[0] < 2**40:
            return "a wheel has no size"
        if not isinstance(about[1], str) or not _SHA256.fullmatch(about[1]):
            return "a wheel has no SHA-256"
    if verb == "install" and len(_ours(wheels)) != 1:
        return "not one of the wheels is expertc's"
    if type(request.get("offline", False)) is not bool:
        return "offline is not true or false"
    if not isinstance(extras, list) or len(extras) > 8 or not all(map(_is_extra, extras)):
        return "extras are no names"
    return ""


def _is_extra(extra: object) -> bool:
    return isinstance(extra, str) and _EXTRA.fullmatch(extra) is not None


def _ours(wheels: "Iterable[str]") -> "list[str]":
    return [name for name in wheels if name.startswith("expertc-")]


class Place:
    """Where an environment is, and the wheels that are to be installed in it."""

    def __init__(self, env: str, wheels: "dict[str, list[Any]]") -> None:
        self.root = os.path.expanduser(ROOT)
        self.env = os.path.join(self.root, "envs", env)
        self.folder = os.path.join(self.root, "wheels", env)
        self.wheels = wheels
        self.python = os.path.join(self.env, "bin", "python")
        self.ready = os.path.join(self.env, "ready")
        for folder in (os.path.dirname(self.env), self.folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def is_ready(self) -> bool:
        """Whether the environment is complete, and for the Python that runs this."""
        try:
            with open(self.ready, encoding="ascii") as file:
                return file.read() == _minor() and os.path.exists(self.python)
        except FileNotFoundError:
            return False

    def missing(self) -> "dict[str, int]":
        """The wheels that are not here whole, with how many bytes of each are. What is wrong is removed."""
        found = {}
        for name, (size, digest) in self.wheels.items():
            whole = os.path.join(self.folder, name)
            part = whole + ".part"
            if os.path.lexists(whole) and not _is(whole, size, digest):
                os.unlink(whole)
            if os.path.lexists(whole):
                continue
            here = os.lstat(part).st_size if os.path.lexists(part) else 0
            if here == size and _is(part, size, digest):
                os.rename(part, whole)
                continue
            if here >= size or os.path.islink(part):
                os.unlink(part)
                here = 0
            found[name] = here
        return found


def facts(place: Place) -> "dict[str, Any]":
    """What the host must know before it sends anything."""
    ready = place.is_ready()
    if not ready:
        _require_venv()
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "jetson": is_jetson(),
        "disk_free": shutil.disk_usage(place.root).free,
        "ready": ready,
        "missing": {} if ready else place.missing(),
    }


def is_jetson() -> bool:
    """Whether JetPack's own TensorRT may be here, which a virtual environment must be allowed to see."""
    try:
        with open("/proc/device-tree/compatible", "rb") as file:
            tegra = b"nvidia,tegra" in file.read(2**16)
    except OSError:
        tegra = False
    return tegra or os.path.exists("/etc/nv_tegra_release")


def install(place: Place, offline: bool, extras: "list[str]", say: "Say") -> "dict[str, Any]":
    """Make the environment, unless it is ready; where it is, and how long that took."""
    began = time.monotonic()
    lock = os.open(os.path.join(place.root, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("wait: another deployment installs here")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_ready():
            _require_venv()
            try:
                _make(place, offline, extras, lock, say)
            except (Failure, OSError):
                shutil.rmtree(place.env, ignore_errors=True)  # what is left is removed before the next try
                raise
        shutil.rmtree(place.folder, ignore_errors=True)  # where another deployment was first, they are gone already
    finally:
        os.close(lock)
    return {"python": place.python, "seconds": round(time.monotonic() - began, 3)}


def _make(place: Place, offline: bool, extras: "list[str]", lock: int, say: "Say") -> None:
    say("check the files")
    missing = sorted(place.missing())
    if missing:
        raise Failure("DeploymentError", f"{missing[0]} did not arrive whole.", "Deploy again.")
    if os.path.lexists(place.env):  # of a process that was killed
        shutil.rmtree(place.env)
    needed = PIP_BYTES + UNPACKED * sum(size for size, _ in place.wheels.values())
    if shutil.disk_usage(place.root).free < needed:
        raise _full(place, needed)
    say("make the environment")
    options = ["--system-site-packages"] if is_jetson() else []
    _checked([sys.executable, "-I", "-m", "venv", *options, place.env], place, needed, lock, "venv failed", say)
    (wheel,) = _ours(place.wheels)
    named = f"./{wheel}[{','.join(extras)}]" if extras else f"./{wheel}"
    pip = [place.python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-color"]
    pip += ["--no-cache-dir", "--progress-bar", "off", "--find-links", "."]
    pip += ["--isolated", "--no-index"] if offline else []  # isolated: no configuration of the user's
    say("install expertc")
    _checked([*pip, named], place, needed, lock, "pip could not install expertc", say)
    say("start it once")
    start = [place.python, "-I", "-c", "import expertc.deploy.agent"]
    _checked(start, place, needed, lock, "What was installed does not start", say)
    os.sync()
    with open(place.ready + ".part", "w", encoding="ascii") as file:
        file.write(_minor())
        file.flush()
        os.fsync(file.fileno())
    os.rename(place.ready + ".part", place.ready)


def _checked(command: "list[str]", place: Place, needed: int, lock: int, what: str, say: "Say") -> None:
    """Run a step; ``Failure`` with its own last words if it fails."""
    last = collections.deque(maxlen=40)  # type: collections.deque[str]

    def heard(line: str) -> None:
        if line.startswith(("Collecting ", "Processing ", "Downloading ", "Installing ")):
            say(line[:200])
        if line:
            last.append(line)

    if run(command, place.folder, lock, heard) == 0:
        return
    words = " ".join([line for line in last if line.startswith("ERROR:")][-2:] or list(last)[-1:])
    if "No space left on device" in " ".join(last) or "Disk quota exceeded" in " ".join(last):
        raise _full(place, needed)
    raise Failure(
        "DeploymentError",
        f"{what}: {words[:TOLD] or 'it does not say why.'}",
        f"Send wheels for Python {_minor()} on {platform.machine()} (--wheelhouse), or see to the device's network.",
    )


def _require_venv() -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Failure(
                "UnsupportedError",
                f"Python {_minor()} on the device cannot make virtual environments: it has no {module}.",
                f"Install it there: sudo apt install python{_minor()}-venv",
            )


def _full(place: Place, needed: int) -> Failure:
    free = shutil.disk_usage(place.root).free
    return Failure(
        "FileSystemError",
        f"The device's disk is full: {place.root} needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} are free.",
        "Make room there, and deploy again.",
    )


def _unwritable(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("FileSystemError", "The device's disk is full.", "Make room there, and deploy again.")
    where = "" if error.filename is None else f" '{error.filename}'"
    return Failure(
        "FileSystemError", f"The device cannot use{where} ({error.strerror}).", "See to its permissions there."
    )


def _is(path: str, size: int, digest: str) -> bool:
    """Whether a regular file has this size and SHA-256."""
    if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != size:
        return False
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            found.update(chunk)
    return found.hexdigest() == digest


def _minor() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


if __name__ == "__main__":
    sys.exit(listen(None, answer))
