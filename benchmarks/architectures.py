"""Cut what torch exports of timm's classifiers, with both exporters, and let others judge the experts.

    python -m benchmarks.architectures [--only NAME...] [--exporter dynamo|torchscript] [--jobs 1] [--keep DIR]

Every network has random weights, the smallest images it takes and, where its constructor lets it, few layers
(``timm_exports.py``, where the judges are too). Each pair of network and exporter runs in a child process with a limit
of time and memory. A pair that is in the results already is not run again unless it is named.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from benchmarks.timm_exports import (
    ARCHITECTURES,
    CLASSES,
    EXPORTERS,
    Result,
    export,
    is_exact,
    is_minimal,
    judge,
    make,
    stops,
)  # fmt: skip
from expertc.bench import environment

RESULTS = Path(__file__).parent / "results"
SECONDS, GIBIBYTES = 600, 10  # limits of a pair

# -- one pair in a child process ---------------------------------------------------------------------------------------


def pair(name: str, exporter: str, keep: Path | None = None) -> Result:
    """Export and judge, here. ``torch_error`` is torch's own where torch cannot export the network.

    ``keep`` is a folder for exports: one that is there is not made again.
    """
    network, began = make(name), time.monotonic()
    file = None if keep is None else keep / f"{name}-{exporter}.onnx"
    refused = file.with_suffix(".txt") if file is not None else None
    if refused is not None and refused.is_file():
        return {"torch_error": refused.read_text(encoding="utf-8")}
    if file is not None and file.is_file():
        return judge(name, network, file.read_bytes())
    exported = _exported(name, network, exporter)
    middle = time.monotonic()
    if isinstance(exported, str):
        if refused is not None:
            refused.write_text(exported, encoding="utf-8")
        return {"torch_error": exported}
    if file is not None:
        file.write_bytes(exported)
    found = judge(name, network, exported)
    return found | {"export_seconds": round(middle - began, 1), "judge_seconds": round(time.monotonic() - middle, 1)}


def _exported(name: str, network: Any, exporter: str) -> bytes | str:
    """The export, with an open batch and the oldest opset that torch can write; else torch's last error."""
    import torch

    refused = ""
    for symbolic, opset in product((True, False), EXPORTERS[exporter]):
        try:
            return export(network, ARCHITECTURES[name][0], exporter, opset=opset, symbolic=symbolic)
        except (
            torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError
        ) as error:  # fmt: skip
            refused = clean(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}")
    return refused


def clean(text: str) -> str:
    """The first line of a message, without colours and without this machine's folders."""
    line = re.sub(r"\x1b\[[\d;]*m", "", text).strip().partition("\n")[0]
    return re.sub(r"(?<![\w.])/[^\s'\":,]*/", "", line)[:200]


def _child(name: str, exporter: str, keep: Path | None, answer: Connection, errors: Path) -> None:
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(errors.parent)  # should torch write a report
    limit = GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = pair(name, exporter, keep)
    answer.send(found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024})


def supervised(name: str, exporter: str, keep: Path | None) -> Result:
    """The same in a child process. ``failed`` is the last line that a child without a result wrote."""
    context = multiprocessing.get_context("fork")  # torch and timm are imported once
    with TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(name, exporter, keep, theirs, errors))
        child.start()
        theirs.close()
        found: Result = {}
        try:
            if mine.poll(SECONDS):
                found = mine.recv()
            else:
                child.kill()
                found = {"failed": f"no result after {SECONDS} s"}
        except EOFError:
            lines = errors.read_text(errors="replace").split("\n")
            found = {"failed": clean(next((line for line in reversed(lines) if line.strip()), "died without a word"))}
        child.join()
    return {"architecture": name, "exporter": exporter} | found


# -- results -----------------------------------------------------------------------------------------------------------


def verdict(found: Result) -> str:
    if "torch_error" in found:
        return f"torch: {found['torch_error']}"
    if "failed" in found:
        return f"FAILED: {found['failed']}"
    wrong = [word for word, good in (("exact", is_exact(found)), ("minimal", is_minimal(found))) if not good]
    wrong += [] if found["composable"] else ["composable"]
    return "; ".join([f"NOT {word}" for word in wrong] + [f"stopped: {reason}" for reason in stops(found)]) or "ok"


def markdown(results: Mapping[str, Any]) -> str:
    pairs = results["pairs"]
    done = [found for found in pairs if "cuts" in found]
    counts = {
        "architectures": len({found["architecture"] for found in done}),
        "pairs that torch exports": len([found for found in pairs if "torch_error" not in found]),
        "exact": sum(map(is_exact, done)),
        "minimal": sum(map(is_minimal, done)),
        "composable": sum(found["composable"] for found in done),
        "stopped by an operator that has a rule": sum(bool(stops(found)) for found in done),
        "pairs that torch cannot export": len([found for found in pairs if "torch_error" in found]),
    }
    lines = [f"{results['environment']['versions']}, {results['environment']['cpu']}.", ""]
    lines += ["; ".join(f"{name}: {number}" for name, number in counts.items()) + ".", ""]
    lines += ["| architecture | exporter | opset | batch | nodes | values gone | largest difference | verdict |"]
    lines += ["| --- | --- | ---: | --- | ---: | ---: | ---: | --- |"]
    for found in pairs:
        row = [found["architecture"], found["exporter"]]
        if "cuts" in found:
            gone = " / ".join(f"{cut['values_gone']:,}" for cut in found["cuts"])
            difference = max(cut["difference"] for cut in found["cuts"])
            row += [
                str(found["opset"]),
                found["batch"],
                f"{found['nodes']:,}",
                gone,
                f"{difference:.0e}" if difference else "0",
            ]
        else:
            row += [""] * 5
        lines.append("| " + " | ".join([*row, verdict(found).replace("|", "\\|")]) + " |")
    return "\n".join(lines) + "\n"


def save(found: Mapping[tuple[str, str], Result]) -> str:
    """Write both files; the order is that of the tables above, whatever was run last."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "onnx", "onnxruntime", "onnxscript"))
    known = [(name, exporter) for name in ARCHITECTURES for exporter in EXPORTERS]
    results = {
        "environment": environment.describe() | {"versions": versions},
        "classes": CLASSES,
        "pairs": [found[key] for key in known if key in found],
    }
    RESULTS.mkdir(exist_ok=True)
    table = markdown(results)
    for name, text in (("architectures.json", json.dumps(results, indent=1) + "\n"), ("architectures.md", table)):
        partial = RESULTS / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(RESULTS / name)
    return table


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", metavar="NAME", choices=ARCHITECTURES, help="run these, also again")
    arguments.add_argument("--exporter", choices=EXPORTERS, help="with this exporter only")
    arguments.add_argument("--jobs", type=int, default=1, help="pairs at a time")
    arguments.add_argument("--keep", type=Path, metavar="DIR", help="keep the exports there, and use those it holds")
    given = arguments.parse_args()
    keep = None if given.keep is None else given.keep.resolve()
    import torch

    from expertc.zoo import import_timm

    torch.set_num_threads(1)
    import_timm()
    file = RESULTS / "architectures.json"
    before = json.loads(file.read_text(encoding="utf-8"))["pairs"] if file.is_file() else []
    found = {(one["architecture"], one["exporter"]): one for one in before}
    todo = [(name, exporter) for name in given.only or ARCHITECTURES for exporter in EXPORTERS]
    todo = [key for key in todo if given.exporter in (None, key[1]) and (given.only or key not in found)]
    lock = Lock()

    def work(key: tuple[str, str]) -> None:
        one = supervised(*key, keep)
        with lock:
            found[key] = one
            save(found)
            print(f"{key[0]:32} {key[1]:12} {verdict(one)}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(max(1, given.jobs)) as pool:
        list(pool.map(work, todo))
    print(save(found))


if __name__ == "__main__":
    main()
