"""Tables and plots of ``benchmarks.exits``: what was found, and what of the paper's statements it bears out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expertc.intervals import wilson

PRINTED = {"alexnet": "AlexNet", "b-alexnet": "B-AlexNet", "sem-hbn": "Sem-HBN", "gran-hbn": "Gran-HBN",
           "ag-hbn": "AG-HBN"}  # fmt: skip
COLOURS = dict(zip(PRINTED, ("0.35", "#0072b2", "#009e73", "#d55e00", "#cc79a7"), strict=True))
WITHIN = 0.5  # points of accuracy that are called the same: about half the width of an interval of 10,000 photos
LIKE = 0.25  # of a ratio: so far apart two costs are called the same
HALF = 0.5

Found = Mapping[str, Any]


# -- numbers -----------------------------------------------------------------------------------------------------------


def at_share(curve: Sequence[Found], fine: float, what: str = "accuracy") -> float:
    """``what`` where the share ``fine`` of the answers names a class; between settings, a line."""
    ranked = sorted((one["fine"], one[what]) for one in curve)
    return float(np.interp(fine, *zip(*ranked, strict=True)))


def spoken(hits: int, images: int) -> str:
    """Per cent with its 95 % interval."""
    low, high = wilson(hits, images)
    return f"{100 * hits / images:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def cheapest(network: Found, images: int, accuracy: float) -> Found | None:
    """The operating point of the fewest MACs that answers ``accuracy`` per cent rightly."""
    good = [one for one in network["best"] if 100 * one["hits"] >= accuracy * images]
    return min(good, key=lambda one: one["seconds"], default=None)


# -- what of the paper holds -------------------------------------------------------------------------------------------


def statements(found: Found) -> Iterator[tuple[str, bool, str]]:
    """A statement, whether it holds here, and the numbers."""
    networks, images = found["networks"], found["images"]
    gran = networks["gran-hbn"]["exits"]

    def shares(name: str, kind: str) -> list[float]:
        return [100 * one[kind]["hits"] / images for one in networks[name]["exits"] if kind in one]

    for kind, said in (("fine", "classes"), ("coarse", "categories")):
        own = shares("gran-hbn", kind)
        yield (
            f"Later exits of Gran-HBN are right about {said} more often",
            own == sorted(own),
            ", ".join(f"{value:.1f} %" for value in own),
        )
    yield (
        "At every exit the coarse answer is right more often than the fine one",
        all(one["coarse"]["hits"] > one["fine"]["hits"] for one in gran),
        ", ".join(f"+{100 * (one['coarse']['hits'] - one['fine']['hits']) / images:.1f}" for one in gran) + " points",
    )
    means = [[one[kind]["entropy"]["mean"] for one in gran] for kind in ("fine", "coarse")]
    yield (
        "Coarse answers are surer than fine ones, and both get surer from exit to exit",
        all(c < f for f, c in zip(*means, strict=True)) and all(side == sorted(side, reverse=True) for side in means),
        f"fine {_list(means[0])} nats, coarse {_list(means[1])}",
    )
    for number, one in enumerate(gran, 1):
        fine = [each["fine"] for each in one["tolerance"]]
        accuracy = [each["accuracy"] for each in one["tolerance"]]
        yield (
            f"Exit {number}: a larger tolerance makes answers finer and less often right",
            fine == sorted(fine) and fine[-1] > fine[0] and accuracy[-1] < accuracy[0],
            f"{100 * fine[0]:.0f} to {100 * fine[-1]:.0f} % fine, "
            f"{100 * accuracy[0]:.1f} to {100 * accuracy[-1]:.1f} % right",
        )
    flat = shares("alexnet", "fine")[-1]
    for name in ("b-alexnet", "gran-hbn"):
        last = shares(name, "fine")[-1]
        yield (
            f"{PRINTED[name]}'s last exit knows classes as well as AlexNet",
            last >= flat - WITHIN,
            f"{last:.1f} against {flat:.1f} %",
        )
    full = networks["alexnet"]["exits"][-1]["macs"]
    for name in ("b-alexnet", "sem-hbn", "gran-hbn"):
        point = cheapest(networks[name], images, flat)
        said = "never" if point is None else (
            f"{100 * point['seconds'] / full:.0f} % of its MACs, {100 * point['fine'] / images:.0f} % fine"
        )  # fmt: skip
        holds = point is not None and point["seconds"] < full
        answers = "answers, classes or categories," if name != "b-alexnet" else "answers"
        yield f"{PRINTED[name]}'s {answers} are right as often as AlexNet's classes at a lower cost", holds, said
    cost, took = ([one[what] / gran[-1][what] for one in gran] for what in ("macs", "seconds"))
    yield (
        "The latency to an exit of Gran-HBN follows its MACs",
        all(abs(t / c - 1) <= LIKE for c, t in zip(cost, took, strict=True)),
        f"{_list(took)} of the whole network's latency at {_list(cost)} of its MACs",
    )
    semantic = networks["ag-hbn"]["semantic"]
    fine, own = semantic["fine"] / images, 100 * semantic["hits"][-1] / images
    other = 100 * at_share(semantic["tolerance"], fine)
    chose = f"{100 * fine:.1f} % fine, last exit" if 0 < fine < 1 else "it does not choose"
    yield (
        "AG-HBN's semantic exit chooses the granularity better than the entropies of its answers, as often fine",
        0 < fine < 1 and own > other + WITHIN,
        f"{own:.1f} against {other:.1f} % right: {chose}",
    )
    one, *_, many = (100 * at_share(each["tolerance"], HALF) for each in found["batches"])
    yield (
        "Deciding for a batch as one costs accuracy",
        many < one - WITHIN,
        f"half of the answers fine: {one:.1f} % right one by one, {many:.1f} % by {found['batches'][-1]['batch']}",
    )


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(found: Found) -> str:
    """Everything as tables."""
    images, runtime = found["images"], found["runtime"]
    lines = [
        f"# Early exits on {found['set']}", "",
        f"{found['epochs']} epochs from random weights (the paper's are 120; of AG-HBN's the last sixth, one at least,",
        f"trains its semantic exit alone), seed {found['seed']}; {images:,} held-out photos, on which settings are",
        "chosen as well as judged: the best are somewhat worse on others. 95 % Wilson intervals. Latency:",
        "medians of nested graphs, batch 1, one thread, all in turns in one run,",
        f"onnxruntime {runtime['version']}, {runtime['processor']}. Costs include the earlier exits.", "",
        "## Exits", "",
        "| network | exit | MMACs | latency, ms | class right, % | category right, % | entropy, nats: fine | coarse |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, network in found["networks"].items():
        for number, one in enumerate(network["exits"], 1):
            cells = [spoken(one[kind]["hits"], images) if kind in one else "" for kind in ("fine", "coarse")]
            cells += [f"{one[kind]['entropy']['mean']:.3f}" if kind in one else "" for kind in ("fine", "coarse")]
            cost = f"{one['macs'] / 1e6:.2f} | {1e3 * one['seconds']:.2f}"
            lines.append(f"| {PRINTED[name]} | {number} | {cost} | {' | '.join(cells)} |")
    lines += [
        "", "## Operating regions", "",
        "What one exit of Gran-HBN by itself makes of all photos, from a tolerance at which every answer is coarse to",
        "one at which every answer is fine. Per cent right, and the tolerance in nats at half:", "",
        "| exit | coarse | half of them fine | fine | tolerance |", "| ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for number, one in enumerate(found["networks"]["gran-hbn"]["exits"], 1):
        lines.append(f"| {number} | {' | '.join(_region(one['tolerance']))} |")
    lines += [
        "", "The same of the last exit where a batch of photos drawn at random decides as one:", "",
        "| batch | coarse | half of them fine | fine | tolerance |", "| ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    lines += [f"| {each['batch']} | {' | '.join(_region(each['tolerance']))} |" for each in found["batches"]]
    lines += ["", "## What of the paper's statements holds here", "", "| statement | holds | |", "| --- | --- | --- |"]
    lines += [f"| {said} | {'yes' if holds else 'no'} | {why} |" for said, holds, why in statements(found)]
    return "\n".join(lines) + "\n"


def _region(curve: Sequence[Found]) -> list[str]:
    right = [f"{100 * at_share(curve, fine):.1f}" for fine in (0.0, HALF, 1.0)]
    return [*right, f"{at_share(curve, HALF, 'tolerance'):.2f}"]


# -- plots -------------------------------------------------------------------------------------------------------------


def plots(found: Found, base: Path) -> None:
    """``base``.svg: accuracy over specificity by exit and by batch, accuracy over cost, entropies."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "expertc"  # the same numbers give the same file
    made = Figure((11, 8.4), layout="constrained")
    over, cost, sure, batch = made.subplots(2, 2).ravel()
    gran, images = found["networks"]["gran-hbn"]["exits"], found["images"]
    for number, one in enumerate(gran, 1):
        _curve(over, one["tolerance"], f"exit {number}")
    over.set_title("Gran-HBN, one exit by itself, over the tolerance")
    for each in found["batches"][::2]:
        _curve(batch, each["tolerance"], f"batches of {each['batch']}")
    batch.set_title("Gran-HBN's last exit, a batch deciding as one")
    for axes in (over, batch):
        axes.set_xlabel("answers that name a class, %")
        axes.set_ylabel("right answers, %")
    for name, network in found["networks"].items():
        for kind, marker in (("fine", "o"), ("coarse", "^")):
            own = [(one["macs"] / 1e6, 100 * one[kind]["hits"] / images) for one in network["exits"] if kind in one]
            if own:
                cost.plot(*zip(*own, strict=True), marker=marker, ls=":", color=COLOURS[name],
                          label=f"{PRINTED[name]}, {kind}")  # fmt: skip
    best = [(one["seconds"] / 1e6, 100 * one["hits"] / images) for one in found["networks"]["gran-hbn"]["best"]]
    cost.step(*zip(*best, strict=True), where="post", color=COLOURS["gran-hbn"], lw=1,
              label="Gran-HBN, its best settings")  # fmt: skip
    cost.set_title("Exits, and the best settings of Gran-HBN")
    cost.set_xlabel("MACs per photo, millions")
    cost.set_ylabel("right answers, %")
    for shift, kind in ((-0.12, "fine"), (0.12, "coarse")):
        spread = np.array([one[kind]["entropy"]["quantiles"] for one in gran])
        at = np.arange(1, len(gran) + 1) + shift
        middle = spread[:, 2]
        sure.errorbar(at, middle, [middle - spread[:, 0], spread[:, 4] - middle], fmt="none", lw=1, color="0.6")
        sure.errorbar(at, middle, [middle - spread[:, 1], spread[:, 3] - middle], fmt="o", lw=4, label=kind)
    sure.set_xticks(range(1, len(gran) + 1))
    sure.set_title("Gran-HBN: median, half and four fifths of the photos")
    sure.set_xlabel("exit")
    sure.set_ylabel("entropy, nats")
    for axes in (over, cost, sure, batch):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, **({"loc": "center", "ncols": 2} if axes is cost else {}))
    made.savefig(base.with_suffix(".svg"), metadata={"Date": None})


def _curve(axes: Any, curve: Sequence[Found], label: str) -> None:
    ranked = sorted((100 * one["fine"], 100 * one["accuracy"]) for one in curve)
    axes.plot(*zip(*ranked, strict=True), marker=".", label=label)
