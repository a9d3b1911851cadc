"""Recipes: published methods, and ours, as figures over shared blocks.

A recipe is a TOML file in `edgeq/recipes/`. It has two halves: data (which images? the table `[synthesis]`) and
numbers (which scales, codes and biases? the tables `[ranges]`, `[reconstruction]`, `[training]` and `[correction]`,
followed in this order). A published method usually has one half, and any data half goes with any numbers half:
`load_recipe("leaves+brecq")`. A recipe of one half has the other of the default.
`[effort.quick.*]` and `[effort.max.*]` replace some figures of the standard effort, and `--set synthesis.samples=256`
one figure of whatever was chosen.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import typing
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgeq.core.errors import EdgeqBug, InputError, describe_choices
from edgeq.core.figures import parse_figure
from edgeq.core.numbers_spec import (
    CorrectionSpec,
    RangesSpec,
    ReconstructionSpec,
    TrainingSpec,
)
from edgeq.core.serial import Spec
from edgeq.core.specs import Effort
from edgeq.core.synthesis_spec import SynthesisSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_RECIPE",
    "CorrectionSpec",
    "Kind",
    "RangesSpec",
    "Recipe",
    "ReconstructionSpec",
    "SynthesisSpec",
    "TrainingSpec",
    "list_recipes",
    "load_recipe",
    "name_recipe",
    "read_recipe",
    "recipe_names",
]

DEFAULT_RECIPE = "edgeq"

# The tables of each half, and what reads them.
_DATA: dict[str, type[Spec]] = {"synthesis": SynthesisSpec}
_NUMBERS: dict[str, type[Spec]] = {
    "ranges": RangesSpec,
    "reconstruction": ReconstructionSpec,
    "training": TrainingSpec,
    "correction": CorrectionSpec,
}
_TABLES = _DATA | _NUMBERS


class Kind(enum.Enum):
    """Which halves a recipe has of its own."""

    DATA = "data"
    NUMBERS = "numbers"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Spec):
    """A method: where it comes from, and its figures for one effort.

    Attributes:
        name: of the file, or of both files as "data+numbers".
        kind: which halves the file has; those of "data+numbers" are both.
        data, numbers: names of the recipes whose halves these are.
        title: what it does.
        source: papers, with authors.
        venue: where and when they were published.
        notes: deviations; which parts are reconstructed because the paper's text and code were not at hand.
        without_statistics: the data recipe that takes this one's place where nothing recorded the statistics of the
            training data; "" where this one needs none, or nothing may take its place.
    """

    name: str
    kind: Kind
    data: str
    numbers: str
    title: str
    source: str
    venue: str
    notes: str
    effort: Effort
    synthesis: SynthesisSpec
    ranges: RangesSpec
    reconstruction: ReconstructionSpec
    training: TrainingSpec
    correction: CorrectionSpec
    without_statistics: str = ""

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the figures of both halves, by table and key, as --set names them."""
        return {
            table: {
                field.name: getattr(getattr(self, table), field.name)
                for field in dataclasses.fields(kind)  # type: ignore[arg-type]
            }
            for table, kind in _TABLES.items()
        }

    @property
    def cost(self) -> str:
        """Return what its own halves ask for, in words."""
        parts = {Kind.DATA: [self.synthesis.cost], Kind.NUMBERS: [self.numbers_cost]}
        return ", ".join(parts.get(self.kind, [self.synthesis.cost, self.numbers_cost]))

    @property
    def numbers_cost(self) -> str:
        """Return what the numbers half asks for, in words."""
        loops = []
        if self.reconstruction.iterations:
            loops.append(self.reconstruction.cost)
        if self.training.steps:
            loops.append(self.training.cost)
        return ", ".join(loops) or "ranges alone"


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes in alphabetical order."""
    folder = resources.files("edgeq") / "recipes"
    return tuple(
        sorted(
            item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml")
        )
    )


def name_recipe(data: str, numbers: str) -> str:
    """Return the shortest name of the recipe with these halves: the default's need not be said."""
    if data == numbers:
        return data
    if numbers == DEFAULT_RECIPE and read_recipe(data)["kind"] == Kind.DATA.value:
        return data
    if data == DEFAULT_RECIPE and read_recipe(numbers)["kind"] == Kind.NUMBERS.value:
        return numbers
    return f"{data}+{numbers}"


def load_recipe(
    name: str, *, effort: Effort = Effort.STANDARD, settings: dict[str, str] | None = None
) -> Recipe:
    """Return a recipe with the figures of `effort`, some replaced by `settings`.

    Args:
        name: a name of `recipe_names`, or two as "data+numbers".
        effort: which figures.
        settings: "synthesis.samples" or "training.steps" and the like, to text as on the command line.

    Raises:
        InputError: for an unknown name, key or value, or two recipes that do not go together; the nearest names are
            offered.
    """
    data, numbers = _choose_halves(name)
    figures: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    for file, tables in ((numbers, _NUMBERS), (data, _DATA)):
        for table in tables:
            figures[table].update(_figures(file, table, effort))
    if data["kind"] == Kind.DATA.value:  # what its samples ask of the other half
        for table in _NUMBERS:
            figures[table].update(_figures(data, table, effort))
    for key, text in (settings or {}).items():
        table, field = _find_figure(key)
        figures[table][field] = parse_figure(
            key, text, typing.get_type_hints(_TABLES[table])[field]
        )
    own = _join(data, numbers)
    specs: dict[str, Any] = {
        table: kind.from_dict(figures[table]) for table, kind in _TABLES.items()
    }
    return Recipe(
        **own,
        data=data["name"],
        numbers=numbers["name"],
        effort=effort,
        without_statistics=data.get("without_statistics", ""),
        **specs,
    )


def list_recipes() -> tuple[Recipe, ...]:
    """Return every recipe with the figures of the standard effort."""
    return tuple(load_recipe(name) for name in recipe_names())


def _choose_halves(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the files of the data half and of the numbers half of a recipe's name."""
    first, plus, second = name.partition("+")
    one = read_recipe(first)
    if not plus:
        kind = Kind(one["kind"])
        default = one if kind is Kind.BOTH else read_recipe(DEFAULT_RECIPE)
        return (default, one) if kind is Kind.NUMBERS else (one, default)
    two = read_recipe(second)
    if Kind(one["kind"]) is Kind.NUMBERS or Kind(two["kind"]) is Kind.DATA:
        raise InputError(
            f"'{name}' does not name a data recipe and then a numbers recipe",
            why=f"'{first}' is of the kind {one['kind']}, '{second}' of the kind {two['kind']}",
            mend="write DATA+NUMBERS, for instance leaves+edgeq; `edgeq recipes` tells the kinds",
        )
    return one, two


def _join(data: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """Return name, kind and words of the recipe with these halves."""
    name = name_recipe(data["name"], numbers["name"])
    words = ("title", "source", "venue", "notes")
    if "+" not in name:
        own = data if data["name"] == name else numbers
        return {"name": name, "kind": Kind(own["kind"]), **{word: own[word] for word in words}}
    joined = {word: f"{data[word]}; then: {numbers[word]}" for word in words}
    return {"name": name, "kind": Kind.BOTH, **joined}


def read_recipe(name: str) -> dict[str, Any]:
    """Return what the file of a recipe holds.

    Raises:
        InputError: for an unknown name; the nearest are offered.
    """
    if name not in recipe_names():
        raise InputError(
            f"unknown recipe '{name}'",
            why="edgeq has no recipe of that name",
            mend=f"{describe_choices(name, recipe_names())}; `edgeq recipes` tells what each is",
        )
    text = (resources.files("edgeq") / "recipes" / f"{name}.toml").read_text("utf-8")
    data: dict[str, Any] = tomllib.loads(text)
    if data.get("name") != name:
        msg = f"recipe file {name}.toml calls itself {data.get('name')!r}"
        raise EdgeqBug(msg)
    return data


def _figures(file: dict[str, Any], table: str, effort: Effort) -> dict[str, Any]:
    """Return the figures of one table of a recipe's file for an effort."""
    changed = file.get("effort", {}).get(effort.value, {})
    return {**file.get(table, {}), **changed.get(table, {})}


def _find_figure(key: str) -> tuple[str, str]:
    """Return table and field of a key of --set."""
    known = [
        f"{table}.{field.name}"
        for table, kind in _TABLES.items()
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    if key not in known:
        raise InputError(
            f"--set {key}: there is no such figure",
            why="--set replaces one figure of the recipe",
            mend=describe_choices(key, known),
        )
    table, _, field = key.partition(".")
    return table, field
