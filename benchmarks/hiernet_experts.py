"""Parameters and MACs of experts cut from a trained HierNet, in both of its forms.

    python -m benchmarks.hiernet_experts TREE 'cat,dog' 'automobile,truck' 'cat,ship' ...

TREE is a folder that `expertc train` or `benchmarks/hiernet.py` has written. An image takes one branch of the fast
form, whose MACs are those of its costliest way. Writes results/hiernet-experts.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from expertc.graph.cost import Cost
from expertc.plan import plan
from expertc.selection import resolve
from expertc.source import open_source

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Export, cut, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("classes", nargs="+", help="selections, as for expertc build --classes")
    given = parser.parse_args()
    lines = [
        "| form | classes | parameters | of all | MMACs per image | of all |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    with TemporaryDirectory() as folder:
        for form in ("slow", "fast"):
            model = Path(folder) / f"{form}.onnx"
            export = ["export", str(given.tree), "--form", form, "-o", str(model), "-q"]
            subprocess.run([sys.executable, "-m", "expertc", *export], check=True, stdout=subprocess.DEVNULL)
            source = open_source(model)
            lines.append(row(form, "all", source.cost, source.cost))
            experts = ((text, plan(source, resolve(source.card.taxonomy, text))) for text in given.classes)
            lines += [row(form, text, each.expert, source.cost) for text, each in experts]
    table = "\n".join(lines) + "\n"
    (RESULTS / "hiernet-experts.md").write_text(table)
    print(table)


def row(form: str, name: str, own: Cost, full: Cost) -> str:
    """An expert's cost, and its share of the full model's."""
    parameters, macs = (f"{100 * own_ / full_:.0f} %" for own_, full_ in zip(
        (own.parameters, own.macs), (full.parameters, full.macs), strict=True
    ))  # fmt: skip
    return f"| {form} | {name} | {own.parameters:,} | {parameters} | {own.macs / 1e6:.1f} | {macs} |"


if __name__ == "__main__":
    main()
