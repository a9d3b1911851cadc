"""What a build is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.core.specs import BitSpec, Effort, GraphFlavour


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the user asked for; the command line's words, read.

    Attributes:
        bounds: empty, or (low, high) in the model's own unit.
        mean, std: empty, or one value or one a channel.
        shapes: input name to full shape, for axes that the file leaves open.
        eval_path: labelled pictures, one folder a class, or None.
        settings: figures of the recipe that are replaced, as text.
        overwrite: delete another build in `out`.
        teacher_weights: a state dict that gives a folded file its BN statistics, or None.
        samples_path: a sample set to use in place of a synthetic one, see `pipeline.given_samples`; or None.
        flavour: of the graph; None leaves it to the target and the file.
        for_dla: quantize for DLA, and write its calibration cache.
        device: where samples are made and the student is trained: "auto", "cpu", "cuda" or "cuda:N".
    """

    model: Path
    target: str
    bits: BitSpec
    effort: Effort
    seed: int
    out: Path
    recipe: str
    preset: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bounds: tuple[float, ...]
    shapes: dict[str, tuple[int, ...]]
    eval_path: Path | None
    settings: dict[str, str]
    overwrite: bool
    teacher_weights: Path | None = None
    samples_path: Path | None = None
    flavour: GraphFlavour | None = None
    for_dla: bool = False
    device: str = "auto"
