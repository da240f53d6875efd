"""report.json against its JSON Schema, as the ``jsonschema`` package understands it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from made import made, saved
from rainbow import rainbow

from expertc.bench import Accuracy, bench, compare
from expertc.bench import report as report_module
from expertc.bench.report import FORMAT

SCHEMA = json.loads(files("expertc.bench").joinpath("schema.json").read_text(encoding="utf-8"))
ACCURACY = Accuracy(0.9, 0.85, 0.94, 200, 8)
check = Draft202012Validator(SCHEMA).validate


def test_the_schema_is_one_and_of_this_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == SCHEMA["$id"] == FORMAT


@pytest.mark.parametrize(
    "report",
    [
        made({"a": 0.002}),
        made({"a": 0.002, "b": 0.001}, accuracies=(ACCURACY, None)),
        made({"a": 0.002}, blocks=2, turn=1, complete=False),
        made({"a": 3e-8}, batch=32, governor="performance"),
    ],
    ids=["one", "accuracy", "interrupted", "offline"],
)
def test_reports_are_valid(report: Any) -> None:
    read = json.loads(report.to_json())
    assert read == report.to_mapping()
    check(read)
    assert read.keys() <= SCHEMA["properties"].keys()
    for model in read["models"]:
        assert model.keys() == set(SCHEMA["$defs"]["model"]["required"])


def test_a_real_report_is_valid(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(rainbow().bytes())
    found = bench([tmp_path / "a.onnx"], seconds=0.05).to_mapping()
    check(found)
    assert found["environment"].keys() == SCHEMA["properties"]["environment"]["properties"].keys()
    assert sum(found["models"][0]["durations_ns"]) < 1e9
    assert found["harness"]["overhead"] < found["harness"]["budget"]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"scenario": "camera", "rate": 200}, "streams"),
        ({"scenario": "offline"}, "sweeps"),
        ({"phases": True}, "phases"),
    ],
)
def test_real_reports_of_other_kinds_are_valid(full: Path, bundle: Path, options: dict[str, Any], key: str) -> None:
    found = bench([full, bundle], seconds=0.8, **options)
    read = json.loads(found.to_json())
    assert read == found.to_mapping()
    check(read)
    assert read.keys() <= SCHEMA["properties"].keys()
    assert key in read
    assert compare_reports(saved(found, full.parent / f"{key}.json")) == {full.name, bundle.name}


def compare_reports(path: Path) -> set[str]:
    """The models of a report that ``bench compare`` finds in it."""
    return {change.name for change in compare(path, path, allow_noisy=True).changes}


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda report: report.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [
        _without("complete"),
        _without("environment"),
        lambda report: report.update(format="expertc.bench/1"),
        lambda report: report["environment"].pop("threads"),
        lambda report: report["models"][0]["summary"].update(p75=1.0),
        lambda report: report["models"][0].update(durations_ns=[0.002]),
        lambda report: report["models"][0].update(sha256="?"),
        lambda report: report["models"][0]["accuracy"].update(top1=90),
        lambda report: report.update(models=[]),
    ],
)
def test_what_is_spoilt_is_not(spoil: Callable[[dict[str, Any]], Any]) -> None:
    report = copy.deepcopy(made({"a": 0.002}, accuracies=(ACCURACY,)).to_mapping())
    check(report)
    spoil(report)
    with pytest.raises(ValidationError):
        check(report)


def test_durations_are_all_there_and_on_one_line() -> None:
    report = made({"a": 0.002}, blocks=50)
    text = report.to_json()
    (model,) = json.loads(text)["models"]
    turns = [tuple(model["durations_ns"][i : i + 4]) for i in range(0, 200, 4)]
    assert turns == [tuple(round(each * 1e9) for each in turn) for turn in report.entries[0].turns]
    assert (model["calls_per_turn"], model["turns_kept_one_in"]) == (4, 1)
    assert len(text.splitlines()) < 120


def test_a_name_like_a_list_stays_a_name() -> None:
    name = "[\\n 1,\n2]"
    assert json.loads(made({name: 0.002}).to_json())["models"][0]["name"] == name


def test_of_a_very_long_run_a_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MOST_DURATIONS", 100)
    report = made({"a": 0.002}, blocks=60)
    (model,) = report.to_mapping()["models"]
    assert model["turns_kept_one_in"] == 3
    assert model["durations_ns"][4:8] == [round(each * 1e9) for each in report.entries[0].turns[3]]
    assert len(model["durations_ns"]) == 80
    assert model["summary"]["n"] == 240
