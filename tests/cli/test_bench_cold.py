"""``expertc bench --cold``: what a start takes stands in the table and in the report."""

from __future__ import annotations

import json
from pathlib import Path

from networks import Net


def test_cold_starts_are_in_the_table_and_in_the_json(cli, tmp_path: Path) -> None:
    net = Net()
    net.result(net.head(net.conv(net.image(3, 8, 8), 3, 8, name="c"), 8, 3, name="scores"), 3)
    (tmp_path / "full.onnx").write_bytes(net.bytes())
    shown = cli("bench", tmp_path / "full.onnx", "--duration", "0.05", "--cold", "--report", tmp_path / "r")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "1st call" in shown.out
    for name in ("report.md", "report.html"):
        assert "Cold start" in (tmp_path / "r" / name).read_text()
    found = json.loads(cli("bench", tmp_path / "full.onnx", "--duration", "0.05", "--cold", "--json", "-q").out)
    start = found["cold"]["full.onnx"]
    assert start["until_first_answer"] == start["imports"] + start["load"] + start["first"]
    assert "cold" not in json.loads(cli("bench", tmp_path / "full.onnx", "--duration", "0.05", "--json", "-q").out)
