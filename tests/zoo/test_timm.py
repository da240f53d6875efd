from __future__ import annotations

import subprocess
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

from expertc.zoo import import_timm

ROOT = Path(__file__).resolve().parents[2]


def test_timm_is_usable_in_a_fresh_process() -> None:
    program = (
        "from expertc.zoo import import_timm\n"
        "timm = import_timm()\n"
        "assert import_timm() is timm\n"
        "import torch\n"
        "from timm.data import create_transform\n"
        "from timm.utils import ModelEmaV3\n"
        "create_transform((3, 8, 8))\n"
        "model = timm.create_model('resnet10t', num_classes=2).eval()\n"
        "print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 2)", done.stderr


def test_another_failure_of_torchvision_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "torchvision":
                raise RuntimeError("out of luck")

    import_timm()
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(RuntimeError, match="out of luck"):
        import_timm()
