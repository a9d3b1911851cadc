"""What recipes give: the accuracy that their papers publish, and the drop that was measured here.

Published figures are in the file of the recipe (`[[published]]`), with the setting that they are of: networks, settings
and pictures differ from paper to paper, and none is comparable with another, or with what is measured here.
What was measured is in `edgeq/recipes/measured.json`, which `benchmarks/results_page.py` writes; where there is no such
file, or no figure in it, nothing was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from edgeq.core.recipes import Recipe, read_recipe
from edgeq.core.serial import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Spec):
    """One accuracy of the literature.

    Attributes:
        network: and the data set whose test pictures were classified.
        bits: of weights and activations, as "w4a4".
        top1_pct: of the quantized network.
        float_pct: of the network before; none where the source does not tell.
        setting: which layers have those bits.
        pictures: what ranges were read from and values trained on.
        source: who tells.
    """

    network: str
    bits: str
    top1_pct: float
    setting: str
    pictures: str
    source: str
    float_pct: float | None = None

    def __str__(self) -> str:
        before = f" of {self.float_pct:.2f}" if self.float_pct is not None else ""
        return f"{self.top1_pct:.2f}{before} % ({self.network}, {self.bits})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Spec):
    """What a recipe loses, in points of top-1.

    Attributes:
        points: mean of the seeds.
        spread: their standard deviation; none for one seed.
        seeds: how many were measured.
    """

    points: float
    spread: float | None
    seeds: int

    def __str__(self) -> str:
        spread = f" ± {self.spread:.2f}" if self.spread is not None else ""
        count = "" if self.seeds == 3 else f" ({self.seeds} seed{'s' if self.seeds != 1 else ''})"
        return f"{self.points:.2f}{spread}{count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Spec):
    """What `benchmarks/accuracy.py --table` found at one budget.

    Attributes:
        network: and its data set.
        float_pct: top-1 before.
        setting: which layers have the bits.
        seconds: processor seconds of one thread that samples and numbers had together.
        drops: by name of the recipe and bits.
    """

    network: str
    float_pct: float
    setting: str
    seconds: float
    drops: dict[str, dict[str, Drop]]

    @property
    def where(self) -> str:
        """Return what the drops are of, in words."""
        return f"{self.network}, {self.setting}, {self.seconds:g} s"


def published_for(recipe: Recipe) -> tuple[Published, ...]:
    """Return what was published for a recipe, or for each of its halves."""
    names = dict.fromkeys(recipe.name.split("+"))
    found = [item for name in names for item in read_recipe(name).get("published", ())]
    return tuple(dict.fromkeys(Published.from_dict(item) for item in found))


def load_measured() -> Measured | None:
    """Return what was measured here; none where nothing was."""
    file = resources.files("edgeq") / "recipes" / "measured.json"
    return Measured.from_dict(json.loads(file.read_text("utf-8"))) if file.is_file() else None


def measured_for(recipe: Recipe, measured: Measured | None) -> dict[str, Drop]:
    """Return the drops of a recipe by bits, most bits first; nothing where it was not measured."""
    drops = measured.drops.get(recipe.name, {}) if measured is not None else {}
    return dict(sorted(drops.items(), reverse=True))
