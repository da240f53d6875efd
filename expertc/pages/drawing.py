"""What the drawings of a page have in common: their size, their axes, the classes that give a series its colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from xml.etree.ElementTree import Element

from .axis import Axis
from .markup import element

SERIES = 8  # classes s0 to s7 of the page's style
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 42


def drawing(title: str, height: float, parts: Sequence[Element], width: float = WIDTH) -> Element:
    """A picture of ``parts`` with a title for those who cannot see it."""
    return element("svg", (element("title", title), *parts), viewBox=f"0 0 {width:.0f} {height:.0f}", role="img")


def series(place: int) -> str:
    """The classes of what belongs to the series at ``place``."""
    return f"s{place % SERIES}"


def fill(place: int) -> str:
    """The same, for what is filled with the series' colour."""
    return f"fill {series(place)}"


def across(
    x: Axis, label: str, measure: tuple[str, float], height: float = HEIGHT, ticks: Sequence[float] = ()
) -> Iterator[Element]:
    """The lower axis, its values in ``measure``: a unit's name and its length. ``ticks``: round ones by default."""
    name, length = measure
    scaled = Axis(x.low / length, x.high / length, x.start, x.end, x.logarithmic)
    for tick in ticks or scaled.ticks:
        yield element("path", d=f"M{scaled(tick):.1f} {TOP}V{height - BOTTOM}", class_="grid")
        yield element("text", f"{tick:.6g}", x=scaled(tick), y=height - BOTTOM + 16, class_="mid")
    yield element("text", f"{label}, {name}", x=(x.start + x.end) / 2, y=height - 6, class_="mid")


def up(y: Axis, ticks: Sequence[float], say: Callable[[float], str]) -> Iterator[Element]:
    """The left axis."""
    for tick in ticks:
        yield element("path", d=f"M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}", class_="grid")
        yield element("text", say(tick), x=LEFT - 5, y=y(tick) + 4.5, class_="end")


def per_cent(share: float) -> str:
    """A share as an axis says it."""
    return f"{100 * share:.4g} %"


def legend(said: Mapping[int, str]) -> Element:
    """Colour and dashes of each series beside what is said of it, as a list that wraps on a small screen."""
    items = []
    for place, text in said.items():
        sample = element("path", d="M1 6H27", class_=f"line {series(place)}")
        swatch = element("svg", (sample,), viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")
        items.append(element("li", (swatch, element("span", text))))
    return element("ul", items, class_="legend")
