"""The contest of forms: who wins, when nobody does, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from networks import Net

from expertc import contest as room
from expertc.contest import Contest, contest
from expertc.graph import Model, read_model
from expertc.measure import Ratio


def chain(layers: int, side: int = 24) -> Model:
    """As many convolutions one after the other."""
    net = Net(17, batch=1)
    x = net.image(8, side, side)
    for _ in range(layers):
        x = net.conv(x, 8, 8, kernel=3)
    net.result(net.head(x, 8, 2), 2, name="scores")
    return read_model(net.bytes())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "expertc" / "contests"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[float, float] | None]]:
    """Intervals of the ratios, a round each; taken instead of times. None where there were too few for one."""
    rounds: list[dict[str, tuple[float, float] | None]] = []

    def ratio(interval: tuple[float, float] | None) -> Ratio:
        return Ratio(0.8, None, None, 3) if interval is None else Ratio(sum(interval) / 2, *interval, 8)

    def instead(sessions: Mapping[str, object], plain: str, longest: float) -> dict[str, Ratio]:
        given = rounds.pop(0)
        return {name: ratio(given.get(name, (1, 1))) for name in sessions}

    monkeypatch.setattr(room, "_round", instead)
    return rounds


FORMS = ("off", "a", "b", "c")


def held(**changes: Model) -> dict[str, Model]:
    one = chain(1)
    return {name: changes.get(name, one) for name in FORMS}


def test_the_fastest_beyond_doubt_wins(told):
    told += [{"a": (0.8, 0.9), "b": (0.7, 0.95), "c": (1.1, 1.2)}, {"a": (0.85, 0.95), "b": (0.6, 0.7)}]
    assert contest("off", held()).chosen == "b"
    assert told == []


def test_what_may_be_as_fast_as_before_does_not_win(told):
    told += [{"a": (0.8, 1.1), "b": (0.9, 1.2)}, {"a": (0.8, 1.01), "b": (0.95, 1.1)}]
    assert contest("off", held()).chosen == "off"


def test_a_lucky_first_round_is_not_enough(told):
    told += [{"a": (0.5, 0.6)}, {"a": (0.9, 1.1)}]
    assert contest("off", held()).chosen == "off"


def test_when_all_are_slower_one_round_is_enough(told):
    told += [{"a": (1.2, 1.3), "b": (1.2, 1.3), "c": (1.2, 1.3)}]
    assert contest("off", held()).chosen == "off"
    assert told == []


def test_the_choice_is_remembered_for_the_structure_not_the_weights(told, cache):
    told += [{"a": (0.5, 0.6)}, {"a": (0.5, 0.6)}]
    first = contest("off", held())
    again = contest("off", held())  # no round is left
    assert (again.chosen, again.remembered, again.ratios) == ("a", True, first.ratios)
    assert len(list(cache.iterdir())) == 1
    told += [{}]
    assert contest("off", held(off=chain(2))).chosen == "off"
    told += [{}]
    assert contest("off", held(), threads=1).chosen == "off"


def test_what_stayed_open_is_not_remembered(told, cache):
    told += [{"a": None, "b": (0.7, 1.1)}, {"a": None, "b": (0.8, 1.1)}]
    assert contest("off", held()).chosen == "off"
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"chosen": "a"}', '{"chosen": "gone", "time_over_unfused": {}}',
                                  '{"chosen": "a", "time_over_unfused": {"a": 3}}', "\udcff"])  # fmt: skip
def test_a_cache_that_makes_no_sense_is_none(told, cache, text):
    told += [{"a": (0.5, 0.6)}, {"a": (0.5, 0.6)}]
    contest("off", held())
    [file] = cache.iterdir()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    told += [{}]
    found = contest("off", held())
    assert (found.chosen, found.remembered) == ("off", False)


def test_a_cache_that_cannot_be_written_is_none(told, cache):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file")
    told += [{"a": (0.5, 0.6)}, {"a": (0.5, 0.6)}]
    assert contest("off", held()).chosen == "a"


def test_real_sessions(cache):
    """Whatever the times are, the choice follows from them."""
    found = contest("off", {"off": chain(40), "short": chain(2)})
    assert found.ratios["off"].value == 1
    short = found.ratios["short"]
    assert short.low is not None
    assert short.high is not None
    assert 0 < short.low <= short.value <= short.high
    assert found.chosen == ("short" if short.high < 1 else "off")
    assert Contest(**{**vars(found)}).to_mapping()["chosen"] == found.chosen


def test_what_is_worth_a_contest():
    assert not room.is_worth(chain(1, 8))  # a millionth of what is worth it
    assert room.is_worth(chain(40))  # 40 × 8 × 8 × 9 × 24²: 13 million
    net = Net(17, batch=1)
    net.result(net.head(net.image(8, 8, 8), 8, 2), 2, name="scores")
    assert not room.has_siblings(read_model(net.bytes()))


def test_siblings_are_counted():
    for branches, enough in ((3, False), (4, True)):
        net = Net(17, batch=1)
        x = net.image(4, 8, 8)
        heads = [net.head(net.node("Relu", net.conv(x, 4, 4)), 4, 1) for _ in range(branches)]
        net.result(net.node("Concat", *heads, axis=1), branches, name="scores")
        assert room.has_siblings(read_model(net.bytes())) is enough
