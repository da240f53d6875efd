"""Exporting the largest networks of the zoo: time and peak memory, against torch's exporter on the whole network.

    python -m benchmarks.export [--only NAME] [--seconds 600]

Each export is a process of its own, from its start to its end: building the network, exporting it, checking the file
against torch. Peak memory is the process's largest resident set. The peer is ``torch.onnx.export(dynamo=True)`` of the
same network without a check; it is stopped after ``--seconds``. Budgets: HLFP-small of 100 classes in 30 s, NHL of 1000
in 3 min, and three times the weights in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.process import spawn

RESULTS = Path(__file__).parent / "results"
CASES = {
    "HLFP-small, 100 classes, fused": ("hlfp_small", "100", "fused", 30),
    "HLFP-small, 100 classes, separate": ("hlfp_small", "100", "separate", 30),
    "NHL on ConvNeXtV2-Tiny, 1000 classes": ("nhl_convnextv2_tiny", "1000", "fused", 180),
}
_PEER = """
import sys
from expertc.zoo import import_timm
timm = import_timm()
import torch
arch, classes, form, path = sys.argv[1:]
arguments = {"form": form} if arch.startswith("hlfp") else {}
network = timm.create_model(arch, num_classes=int(classes), **arguments).eval()
images = torch.zeros(2, 3, 224, 224)
torch.onnx.export(network, (images,), path, dynamo=True, external_data=False, verbose=False,
                  dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=False)
"""


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="part of a network's name")
    parser.add_argument("--seconds", type=int, default=600, help="longest the peer may take")
    given = parser.parse_args()
    rows = []
    for name, (arch, classes, form, budget) in CASES.items():
        if given.only and given.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "full.onnx"
            ours = [sys.executable, "-m", "expertc", "export", arch, "--num-classes", classes, "--form", form, "-q"]
            peer = [sys.executable, "-c", _PEER, arch, classes, form, str(path)]
            row: dict[str, Any] = {"network": name, "budget_seconds": budget}
            row["expertc"] = measured([*ours, "--embed-gain", "-o", str(path)], 10 * budget)
            row["bytes"] = path.stat().st_size
            path.unlink()
            row["torch"] = measured(peer, given.seconds)
        rows.append(row)
        print(json.dumps(row), flush=True)
    RESULTS.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    (RESULTS / "export.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "export.md").write_text(table(machine, rows))
    print(table(machine, rows))


def measured(command: list[str], limit: int) -> dict[str, Any]:
    """``seconds`` and ``megabytes`` of a process, or its ``error``."""
    found = spawn(command, limit)
    if isinstance(found, str):
        return {"error": found}
    return {"seconds": round(found[0], 1), "megabytes": round(found[1] * 1.024)}  # ru_maxrss counts KiB


def table(machine: str, rows: list[dict[str, Any]]) -> str:
    """Ours and the peer's, side by side."""
    lines = [
        f"Export of a network with random weights, {machine}; one run each. Peak memory in MB.",
        "",
        "| network | weights | expertc | budget | memory | of the weights | torch.onnx.export | its memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ours, peer, megabytes = row["expertc"], row["torch"], row["bytes"] / 1e6
        theirs = peer.get("error") or f"{peer['seconds']:.0f} s"
        lines.append(
            f"| {row['network']} | {megabytes:,.0f} MB | {ours['seconds']:.0f} s | {row['budget_seconds']} s "
            f"| {ours['megabytes']:,} | {ours['megabytes'] / megabytes:.1f} × | {theirs} "
            f"| {peer.get('megabytes', '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
