"""Damage models and see what becomes of them: ONNX Runtime, given the very same file, is the judge.

    python benchmarks/attacks.py [--flips 1000] [--seed 0]

Models, damage and judge are those of ``tests/attacks``. Half of the flipped bytes are in weights. An expert that agrees
has the file's scores at its classes within 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "attacks")]

from damage import flips, shortened, truncations  # noqa: E402
from judge import judge_all  # noqa: E402
from test_graph_attacks import CASES as GRAPHS  # noqa: E402
from test_size_attacks import CASES as SIZES  # noqa: E402
from victims import VICTIMS  # noqa: E402


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--flips", type=int, default=1000, help="of each model, in weights and in all else")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    found: dict[str, Counter[str]] = {}
    for make in VICTIMS.values():
        proto = make()
        attacks = {
            "a byte of a weight flipped": flips(proto, given.flips, given.seed, weights=True),
            "a byte of anything else flipped": flips(proto, given.flips, given.seed, weights=False),
            "cut off behind a top-level field": truncations(proto.SerializeToString()),
            "the graph cut off behind a field": shortened(proto),
        }
        for name, files in attacks.items():
            found.setdefault(name, Counter()).update(judge_all(files))
    crafted = [make().SerializeToString() for make, _ in (*GRAPHS.values(), *SIZES.values())]
    found["made to hurt"] = Counter(judge_all(crafted))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "attacks.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = f"Seed {given.seed}; onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}.\n\n{table(found)}"
    (RESULTS / "attacks.md").write_text(text, encoding="utf-8")
    print(text)


def table(found: Mapping[str, Counter[str]]) -> str:
    """A row per attack, a column per outcome, the most frequent first."""
    total: Counter[str] = Counter()
    for counts in found.values():
        total.update(counts)
    outcomes = [outcome for outcome, _ in total.most_common()]
    lines = [f"| attack | files | {' | '.join(outcomes)} |", "| --- |" + " ---: |" * (len(outcomes) + 1)]
    for name, counts in found.items():
        numbers = [sum(counts.values()), *(counts[outcome] for outcome in outcomes)]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
