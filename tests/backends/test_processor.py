"""The processor's instructions, from texts as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertc.backends.processor import has_vnni, saturates

CPUS = {
    "Cascade Lake": ("fpu sse4_2 avx2 avx512f avx512bw avx512vl avx512_vnni", True),
    "Alder Lake": ("fpu sse4_2 avx2 avx_vnni", True),
    "Skylake": ("fpu sse4_2 avx2 avx512f avx512bw avx512vl", False),
    "Haswell": ("fpu sse4_2 avx2", False),
}


@pytest.mark.parametrize("cpu", CPUS)
def test_what_linux_says(cpu: str, tmp_path: Path) -> None:
    flags, vnni = CPUS[cpu]
    text = f"processor\t: 0\nmodel name\t: {cpu}\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n\n"
    file = tmp_path / "cpuinfo"
    file.write_text(2 * text)
    assert has_vnni(file) is vnni
    assert saturates("x86_64", file) is not vnni
    assert not saturates("aarch64", file)


def test_where_nobody_says(tmp_path: Path) -> None:
    """The careful answer: 7 bits cost a little accuracy, saturation costs the decision."""
    assert not has_vnni(tmp_path / "absent")
    assert saturates("AMD64", tmp_path / "absent")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert not saturates("arm64", tmp_path / "arm")
