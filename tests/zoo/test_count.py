from __future__ import annotations

import pytest

from expertc.errors import UsageError
from expertc.zoo.count import count_arch


def test_published_figures():
    """torchvision publishes 25,557,032 parameters and 4.09 G operations for ResNet-50."""
    found = count_arch("resnet50", 1000)
    assert found == {
        "arch": "resnet50",
        "classes": 1000,
        "size": 224,
        "parameters": 25_557_032,
        "macs": 4_089_184_256,
        "macs_thop": 4_133_742_592,
    }


def test_the_products_of_attention_are_counted():
    """ViT-tiny by hand: patches, and per layer qkv, attention twice, projection, MLP; then the head."""
    tokens, width, layers = 197, 192, 12
    patches = 196 * width * 3 * 16 * 16
    layer = (
        tokens * width * 3 * width
        + 2 * tokens * tokens * width
        + tokens * width * width
        + 2 * tokens * width * 4 * width
    )
    assert count_arch("vit_tiny_patch16_224", 1000)["macs"] == patches + layers * layer + width * 1000


def test_size_and_classes():
    small, large = count_arch("resnet18", 10, 64), count_arch("resnet18", 20, 128)
    assert (small["size"], large["size"]) == (64, 128)
    assert large["parameters"] - small["parameters"] == 10 * 513
    assert 3.9 < large["macs"] / small["macs"] < 4.1


def test_an_unknown_architecture():
    with pytest.raises(UsageError, match="no architecture 'resnet5000'") as caught:
        count_arch("resnet5000", 3)
    assert "resnet50" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        count_arch("[*\x1b", 3)
    assert "\x1b" not in str(caught.value) + caught.value.hint
