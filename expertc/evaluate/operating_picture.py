"""Operating points as a picture: accuracy against latency, how fine the answers are as colour, the chosen one marked.

Drawn with matplotlib, an extra that is imported by who asks for a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from ..text import clean_text
from .operating import Point, front

SIZE, DPI = (7.2, 4.8), 140  # inches, pixels per inch


def draw(points: Sequence[Point], chosen: Point | None, name: str) -> bytes:
    """A PNG file; ``name`` stands above it, and no point is marked if none is ``chosen``.

    Raises ``ModuleNotFoundError`` without matplotlib.
    """
    from matplotlib.figure import Figure

    made = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = made.subplots()
    ranked = sorted(points, key=lambda one: one.fine)  # fine ones in front
    dots = axes.scatter(
        [1e3 * one.seconds for one in ranked], [100 * one.accuracy for one in ranked],
        c=[100 * one.fine_share for one in ranked], cmap="viridis", vmin=0, vmax=100, s=14, linewidths=0,
    )  # fmt: skip
    best = front(points)
    times, shares = [1e3 * one.seconds for one in best], [100 * one.accuracy for one in best]
    axes.step(times, shares, where="post", color="0.35", linewidth=1, label="the best at any latency")
    if chosen is not None:
        said = f"chosen: {100 * chosen.accuracy:.1f} % right, {1e3 * chosen.seconds:.3g} ms"
        place = [1e3 * chosen.seconds], [100 * chosen.accuracy]
        axes.scatter(*place, marker="*", s=220, color="#d55e00", edgecolors="white", zorder=3, label=said)
    made.colorbar(dots, ax=axes, label="answers that name a class, %")
    axes.set_xlabel("mean latency per photo, ms")
    axes.set_ylabel("right answers, class or category, %")
    axes.set_title(clean_text(name), parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    file = io.BytesIO()
    made.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
