"""A training recipe: what to train, on what, in which stages. Data, in TOML, so that a run can be repeated."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ..card import Preprocess
from ..errors import CardError, UsageError
from ..taxonomy import Taxonomy

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


OPTIMIZERS = ("sgd", "adam")

# What older recipes did not say: no part of the fingerprint where it says nothing, so that older runs go on.
_LATER = {"auto_augment", "drops", "pad", "train_only", "optimizer", "levels", "exit_weights"}

_RAND_AUGMENT = re.compile(r"rand(-((m|n|mmax)[1-9]\d?|(p|mstd)\d+(\.\d+)?|inc[01]))+")


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own image size and learning-rate cycle.

    ``lr`` is the peak of a cosine cycle with linear warm-up; with ``drops``, shares of the stage, it stays at its peak
    and falls to a tenth at each of them instead (1.0: never). ``mix`` is the probability that a batch is mixed (CutMix
    or mixup). ``train_only`` names a part of the network, which alone learns: the rest stays as the averaged weights
    were before the stage.
    """

    name: str
    epochs: int
    size: int
    lr: float
    batch: int = 64
    warmup_epochs: float = 1.0
    drops: tuple[float, ...] = ()
    scale: float = 0.35  # smallest area of the random resized crop
    pad: int = 0  # pixels: instead of the resized crop, one of the image with so many around it
    colour_jitter: float = 0.3
    auto_augment: str = ""  # RandAugment as timm spells it, such as rand-m9-n2; it takes the colour jitter's place
    mix: float = 0.0
    ema_decay: float = 0.998
    train_only: str = ""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what would otherwise fail, or quietly mean something else, hours later."""
        for key in ("epochs", "size", "batch"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ValueError(f"stage '{self.name}': {key} is not a whole number from 1 on")
        if self.batch < 2:
            raise ValueError(f"stage '{self.name}': a batch holds at least two images")
        if not self.lr > 0:
            raise ValueError(f"stage '{self.name}': lr is not above 0")
        if not all(0 < drop <= 1 for drop in self.drops):
            raise ValueError(f"stage '{self.name}': drops are not shares above 0, up to 1")
        if not isinstance(self.pad, int) or not 0 <= self.pad < self.size:
            raise ValueError(f"stage '{self.name}': pad is not a number of pixels below the image's side")
        if self.auto_augment and not _RAND_AUGMENT.fullmatch(self.auto_augment):
            raise ValueError(f"stage '{self.name}': auto_augment is not like 'rand-m9-n2'")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    ``taxonomy`` is a shipped name or a file, of which the ``levels`` lowest levels count, 0 standing for all.
    ``exit_weights`` are what the exits of a network with early ones weigh in its loss; none is 1 for each.
    """

    name: str
    taxonomy: str
    arch: str
    stages: tuple[Stage, ...]
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    size: int = 128
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    seed: int = 0
    holdout: float = 0.06  # share of train kept aside for choosing; val is never looked at here
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    optimizer: str = "sgd"
    levels: int = 0
    exit_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a recipe that cannot be followed."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is not one of {', '.join(OPTIMIZERS)}")
        if not isinstance(self.levels, int) or self.levels < 0:
            raise ValueError("levels is not a whole number from 0 on")
        if not all(weight > 0 for weight in self.exit_weights):
            raise ValueError("exit_weights are not numbers above 0")
        if not self.stages:
            raise ValueError("there is no [[stage]]")
        if not 0 <= self.holdout < 1:
            raise ValueError("holdout is not a share from 0 to 1")
        _ = self.preprocess  # raises CardError

    @property
    def preprocess(self) -> Preprocess:
        """What a photo goes through on its way into the trained network: the evaluation transform of ``data``."""
        return Preprocess(
            size=(self.size, self.size),
            resize=self.size,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )

    def tree(self) -> Taxonomy:
        """The classes to train. Raises ``TaxonomyError`` if there is no such taxonomy."""
        named = Taxonomy.named(self.taxonomy)
        return named.lowest(self.levels) if self.levels else named

    @property
    def fingerprint(self) -> str:
        """A short hash of the recipe; a checkpoint of another one is not resumed."""
        facts = asdict(self)
        for kind, tables in ((Recipe, [facts]), (Stage, facts["stages"])):
            for table, key in product(tables, fields(kind)):
                if key.name in _LATER and table[key.name] == key.default:
                    del table[key.name]
        text = json.dumps(facts, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(name: str | Path) -> Recipe:
    """Load a shipped recipe by name or a TOML file. Raises ``UsageError`` if it is missing or malformed.

    A file may name another recipe as its ``base``, and say only what is different.
    """
    path = _path(name)
    data = _read(path)
    try:
        if "base" in data:
            data = _read(_path(data.pop("base"))) | data
        tables = [data, *data.pop("stage")]
        for table, key in product(tables, ("mean", "std", "drops", "exit_weights")):
            if key in table:
                table[key] = tuple(table[key])
        stages = tuple(Stage(**stage) for stage in tables[1:])
        return Recipe(stages=stages, **data)
    except (KeyError, TypeError, ValueError, CardError) as error:
        allowed = [", ".join(f.name for f in fields(kind)) for kind in (Recipe, Stage)]
        hint = f"A recipe may hold: base, {allowed[0]}; a [[stage]]: {allowed[1]}."
        raise UsageError(f"The recipe '{path}' is malformed ({error}).", hint) from error


def _path(name: str | Path) -> Path:
    folder = Path(str(resources.files("expertc.training") / "recipes"))
    path = Path(name)
    path = path if path.suffix == ".toml" else folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise UsageError(f"There is no recipe '{name}'.", f"Give a TOML file or one of: {known}.")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise UsageError(f"The recipe '{path}' cannot be read ({error}).", "Give a TOML file.") from error
