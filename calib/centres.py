"""Calibration centres: one picture a class, and the statistics that it has in the deep layers.

Entry: `find_centres`. The samples are then held to the centre of their class, or to one that is pooled over classes.
Source: TexQ (Chen et al., NeurIPS 2023), whose code was never published: stage 1 as SynQ's code (Kim et al., ICLR 2025)
has it, the texture term from a summary of the paper. A reconstruction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.distances import variance_distance
from calib.labels import hard_cross_entropy
from calib.priors import texture_term
from calib.problem import SynthesisProblem
from calib.statistics import (
    VARIANCE_FLOOR,
    LayerStatistics,
    Moments,
    batch_term,
    by_layer,
    measure,
    targets_from_table,
)
from calib.variables import Pixels
from calib.view import View, as_nchw
from edgeq.core.checkpoints import NO_CHECKPOINTS, Checkpoint, Checkpoints
from edgeq.core.progress import Progress
from edgeq.core.recipes import SynthesisSpec
from edgeq.core.seeds import derive_seed
from edgeq.core.specs import Layout
from edgeq.teacher.compute import CPU
from edgeq.teacher.teacher import with_outputs

# A shallow layer's weight, which leaves room for texture, and a deep layer's: SynQ's code.
SHALLOW, DEEP = 0.2, 1.1
# The weight of the cross-entropy: SynQ's code.
LABEL = 5.0

_FIGURES = tuple(field.name for field in dataclasses.fields(Moments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Centres:
    """Statistics of each class's picture in the deep layers.

    Attributes:
        layers: for each layer, mean and std [classes, C]; None for a shallow layer, or one without positions, or with
            several rows a picture.
    """

    layers: tuple[LayerStatistics | None, ...]

    def term(self, moments: Sequence[Moments], labels: Tensor, *, pooled: bool) -> Tensor:
        """Return how far the deep layers are from the centres, a mean over these layers; [].

        Args:
            moments: of every layer.
            labels: [N], classes of the samples.
            pooled: compare the batch with one centre over all classes (block A8', SynQ), else every sample with the
                centre of its class (A8, on the samples' own statistics as FDDA's single-class batches).

        Deviation: SynQ's code divides by the batch size as well.
        """
        means, variances, targets = [], [], []
        for found, centre in zip(moments, self.layers, strict=True):
            if centre is None or found.sample_mean is None or found.sample_var is None:
                continue
            if pooled:
                means.append(found.mean)
                variances.append(found.var)
                targets.append(_pool(centre))
            else:
                means.append(found.sample_mean)
                variances.append(found.sample_var)
                targets.append(LayerStatistics(mean=centre.mean[labels], std=centre.std[labels]))
        if not means:
            return moments[0].mean.new_zeros(())
        return by_layer(means, variances, targets, variance_distance).mean()


def deep_start(layers: int) -> int:
    """Return the index of the first deep layer. Source: SynQ's code, floor((L + 2) / 2) - 2."""
    return max(0, (layers + 2) // 2 - 2)


def count_steps(problem: SynthesisProblem, spec: SynthesisSpec) -> int:
    """Return how many steps a process has in `find_centres`; 0 where recipe or network has no centres."""
    if spec.centres == "none" or problem.classes is None or not problem.table.entries:
        return 0
    batches = -(-problem.classes // spec.batch)
    return problem.compute.world.rounds(batches) * spec.centre_iterations


def find_centres(
    problem: SynthesisProblem,
    spec: SynthesisSpec,
    *,
    seed: int,
    progress: Progress,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Centres | None:
    """Return the centres that the recipe asks for; None where it asks for none, or there are no classes.

    One picture a class moves down 5 CE + sum_l w_l A2_l / L + `centre_texture` * texture, w = 0.2 for shallow and 1.1
    for deep layers, at a constant rate. Every batch of classes is kept in `checkpoints`, and not made again where it is
    found there.
    """
    if count_steps(problem, spec) == 0:
        return None
    module = with_outputs(problem.teacher, [entry.tensor for entry in problem.table.entries])
    device = problem.compute.device
    targets = targets_from_table(problem.table, device)
    first = deep_start(len(targets))
    weights = [SHALLOW if index < first else DEEP for index in range(len(targets))]
    batches = torch.split(torch.arange(problem.classes or 0), spec.batch)

    def make(index: int) -> list[Moments]:
        classes = batches[index]
        pixels = _start(problem, spec, classes, seed)
        labels = classes.to(device)
        for _ in range(spec.centre_iterations):
            shown = pixels.pictures()
            with problem.compute.autocast():
                outputs, activations = module(*shown)
            moments = [measure(a) for a in activations]
            loss = LABEL * hard_cross_entropy(outputs[0], labels, power=0)
            loss = loss + batch_term(moments, targets, distance=variance_distance, weights=weights)
            if spec.centre_texture > 0:
                loss = loss + spec.centre_texture * _texture(problem, shown)
            pixels.step(loss)
            progress.advance(loss=loss.item())
        with torch.no_grad():
            return [measure(a).to(CPU) for a in module(*pixels.pictures())[1]]

    world = problem.compute.world
    made = list(world.tell(_found(checkpoints, len(batches))))
    kept = len(made)
    if kept:
        rounds = world.rounds(len(batches)) - world.rounds(len(batches) - kept)
        progress.advance(rounds * spec.centre_iterations)
    for part in world.each(len(batches) - kept, lambda index: make(kept + index)):
        if world.rank == 0:
            checkpoints.save(f"centres-{len(made)}", _as_checkpoint(part))
        made.append(part)
    found = [[moments.to(device) for moments in part] for part in made]
    classes = problem.classes or 0
    layers = [
        None if i < first else _centre([m[i] for m in found], classes) for i in range(len(targets))
    ]
    return Centres(layers=tuple(layers))


def _found(checkpoints: Checkpoints, batches: int) -> list[list[Moments]]:
    """Return the first batches of centres, as many as an interrupted run has kept."""
    found: list[list[Moments]] = []
    while len(found) < batches:
        kept = checkpoints.load(f"centres-{len(found)}")
        if kept is None:
            break
        layers = [kept.part(str(index)) for index in range(kept.notes["layers"])]
        found.append([_as_moments(layer) for layer in layers])
    return found


def _as_checkpoint(layers: Sequence[Moments]) -> Checkpoint:
    parts = {
        str(index): {key: x.numpy() for key in _FIGURES if (x := getattr(layer, key)) is not None}
        for index, layer in enumerate(layers)
    }
    return Checkpoint.of_parts(parts, {"layers": len(layers)})


def _as_moments(layer: Mapping[str, NDArray[Any]]) -> Moments:
    found = {key: torch.from_numpy(x) for key, x in layer.items()}
    return Moments(
        mean=found["mean"],
        var=found["var"],
        sample_mean=found.get("sample_mean"),
        sample_var=found.get("sample_var"),
    )


def _start(problem: SynthesisProblem, spec: SynthesisSpec, labels: Tensor, seed: int) -> Pixels:
    name = f"centres {int(labels[0])}"
    generator = torch.Generator().manual_seed(derive_seed(seed, "synthesize", name))
    own = dataclasses.replace(
        spec,
        batch=len(labels),
        iterations=spec.centre_iterations,
        learning_rate=spec.centre_rate,
        schedule="constant",
        projected=True,
    )
    device = problem.compute.device
    views = [View(own, item, device) for item in problem.inputs]
    return Pixels(own, problem.inputs, views, generator, device)


def _texture(problem: SynthesisProblem, shown: Sequence[Tensor]) -> Tensor:
    pairs = zip(shown, problem.inputs, strict=True)
    terms = [
        texture_term(as_nchw(x, own.layout)) for x, own in pairs if own.layout is not Layout.OTHER
    ]
    return torch.stack(terms).sum() if terms else shown[0].new_zeros(())


def _centre(parts: Sequence[Moments], classes: int) -> LayerStatistics | None:
    """Return mean and std [classes, C] of the pictures of all classes.

    None for a layer without positions, and for one that sees several rows a picture: nothing tells whose they are.
    """
    means = [part.sample_mean for part in parts if part.sample_mean is not None]
    variances = [part.sample_var for part in parts if part.sample_var is not None]
    if sum(map(len, means)) != classes:
        return None
    # As what it is compared with has it: see `LayerStatistics.eps`.
    std = (torch.cat(variances) + VARIANCE_FLOOR).sqrt()
    return LayerStatistics(mean=torch.cat(means), std=std)


def _pool(centre: LayerStatistics) -> LayerStatistics:
    """Return the statistics [C] of all the centres' pictures together."""
    between, mean = torch.var_mean(centre.mean, 0, correction=0)
    return LayerStatistics(mean=mean, std=(centre.std.square().mean(0) + between).sqrt())
