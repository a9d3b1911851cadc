"""BatchNorm statistics of a folded ONNX file, from the state dict that it was exported from.

Entry: `recover_bn_table`. An exporter folds a BatchNorm into the layer before it:
    W' = a W,  b' = a (b - mean) + beta,  a = gamma / sqrt(var + eps), one a channel.
So W' and W have the same direction, channel by channel, whatever the two files call them; and a triple (W, BatchNorm,
eps) is accepted only if this equation, computed here, gives the file's W' and b' to within float rounding.

Over the training data the layer's output had, per channel, the mean beta and the variance gamma^2 var / (var + eps).
These go into the table, because the tensor that entered the BatchNorm is not in the file any more.

A row is one output channel: weights are compared as [K, R], whatever the operator stores.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.core.errors import InputError
from edgeq.core.serial import Spec
from edgeq.core.specs import BNEntry, BNTable
from edgeq.graph.findings import listed
from edgeq.graph.view import GraphView
from edgeq.teacher.batchnorms import EPSILONS, BatchNorms, read_batchnorms
from edgeq.teacher.folded import FoldedLayer, precision, read_layers, to_rows

Floats = NDArray[np.float64]

# Roundings on the longest way from state dict to file: var + eps, root, quotient, product, difference, product, sum;
# doubled, because exporters order them differently and some take a reciprocal root of 2 units.
ROUNDINGS = 16
# The variance of a channel that BatchNorm made constant (gamma or var of 0). `calib.statistics` adds the same figure to
# a measured variance, so such a channel deviates by nothing.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Spec):
    """A folded layer and where its numbers come from.

    Attributes:
        node: the layer, by its first output.
        weight: name of its weight in the state dict.
        batchnorm: what the four BatchNorm tensors have before their last dot.
        eps: the epsilon with which the fold gives the file's numbers.
    """

    node: str
    weight: str
    batchnorm: str
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched(Spec):
    """A layer without statistics; `is_plain` where the state dict shows that no BatchNorm was folded into it."""

    node: str
    reason: str
    is_plain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(Spec):
    """The table, and how every layer with weights fared, in running order."""

    table: BNTable
    matched: tuple[Match, ...]
    unmatched: tuple[Unmatched, ...]

    @property
    def failed(self) -> tuple[Unmatched, ...]:
        """Return the layers that may have had a BatchNorm which was not found."""
        return tuple(item for item in self.unmatched if not item.is_plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """A weight [K, R] of the state dict; `bias` [K], float64, zeros where there is none."""

    name: str
    rows: NDArray[Any]
    bias: Floats
    unit: float


def recover_bn_table(
    model: onnx.ModelProto,
    state_dict: Mapping[str, NDArray[Any]],
    *,
    path: Path | None = None,
    needs_fold: bool = True,
) -> Recovered:
    """Return the statistics of every layer of `model` whose fold the state dict reproduces.

    Args:
        model: folded; only Conv, ConvTranspose and Gemm of the main graph are looked at.
        state_dict: as `checkpoint.load_state_dict` gives it.
        path: of the state dict, for the message.
        needs_fold: if false, a layer that is in the state dict as it was trained shows as well that it is the model's.

    Raises:
        InputError: if the state dict has no BatchNorm, or not one layer matches.
    """
    norms = read_batchnorms(state_dict)
    if not norms:
        raise InputError(
            f"none of the {len(state_dict)} tensors is a BatchNorm statistic",
            why="a BatchNorm is known by running_mean and running_var under one name",
            mend="pass the state dict of the network as it was trained, before any fusing",
            path=path,
        )
    search = _Search(state_dict, norms)
    found: list[tuple[Match, BNEntry] | Unmatched] = []
    for layer in read_layers(GraphView(model)):
        if isinstance(layer, FoldedLayer):
            found.append(search.match(layer))
        else:
            found.append(Unmatched(node=layer.node, reason=layer.reason, is_plain=False))
    pairs = [item for item in found if isinstance(item, tuple)]
    result = Recovered(
        table=BNTable(entries=tuple(entry for _, entry in pairs)),
        matched=tuple(match for match, _ in pairs),
        unmatched=tuple(item for item in found if isinstance(item, Unmatched)),
    )
    is_of_model = result.matched or (not needs_fold and any(x.is_plain for x in result.unmatched))
    if not is_of_model:
        raise _no_match(result, path)
    return result


def _no_match(result: Recovered, path: Path | None) -> InputError:
    reasons = [f"'{item.node}': {item.reason}" for item in result.unmatched]
    return InputError(
        f"no layer of the model is a fold of this state dict ({listed(reasons) or 'it has no layer with weights'})",
        why="a layer's statistics are taken over only if its own weight and bias can be reproduced from them",
        mend="pass the checkpoint that this very file was exported from: the averaged (EMA) copy and a checkpoint of "
        "another epoch have other weights",
        path=path,
    )


class _Search:
    """Finds each layer's weight and BatchNorm; of several that fit equally, one that no layer has had yet."""

    def __init__(
        self, state_dict: Mapping[str, NDArray[Any]], norms: Mapping[int, BatchNorms]
    ) -> None:
        self._state_dict = state_dict
        self._norms = norms
        self._used: Counter[str] = Counter()
        self._by_size: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, array in state_dict.items():
            if array.ndim >= 2 and np.issubdtype(array.dtype, np.floating):
                self._by_size[array.shape].append(name)
                if array.ndim > 2:
                    self._by_size[(len(array), array[0].size)].append(name)

    def match(self, layer: FoldedLayer) -> tuple[Match, BNEntry] | Unmatched:
        """Return the best match with its entry of the table, or why there is none."""
        weights = [weight for weight in self._weights(layer) if _has_direction(layer, weight)]
        if not weights:
            return Unmatched(
                node=layer.node,
                reason="no weight of the state dict is proportional to its own",
                is_plain=False,
            )
        for weight in weights:
            if _misfit(layer, weight, np.ones(len(weight.rows)), weight.bias, weight.unit) <= 1:
                reason = f"no BatchNorm: it is '{weight.name}' as it was trained"
                return Unmatched(node=layer.node, reason=reason, is_plain=True)
        norms = self._norms.get(len(layer.rows))
        fits = [fit for weight in weights for fit in self._fits(layer, weight, norms)]
        if norms is None or not fits:
            return Unmatched(
                node=layer.node,
                reason=f"it looks like '{weights[0].name}', but no BatchNorm of {len(layer.rows)} "
                "channels gives its weight and bias",
                is_plain=False,
            )
        _, _, weight, number, eps = min(fits, key=lambda fit: fit[:2])
        self._used.update({weight.name, norms.names[number]})
        match = Match(
            node=layer.node, weight=weight.name, batchnorm=norms.names[number], eps=EPSILONS[eps]
        )
        return match, _entry(match, norms, number)

    def _weights(self, layer: FoldedLayer) -> Iterator[_Weight]:
        """Yield every weight of the layer's size, in the order of the state dict."""
        size = layer.shape if layer.is_transposed else layer.rows.shape
        for name in dict.fromkeys(self._by_size.get(size, ())):
            array = self._state_dict[name]
            rows = to_rows(array, groups=layer.groups, is_transposed=layer.is_transposed)
            stem, _, _ = f".{name}".rpartition(".")
            bias = self._state_dict.get(f"{stem}.bias"[1:])
            if bias is None or bias.shape != (len(rows),):
                bias = np.zeros(len(rows))
            yield _Weight(
                name=name, rows=rows, bias=bias.astype(np.float64), unit=precision(array.dtype)[0]
            )

    def _fits(
        self, layer: FoldedLayer, weight: _Weight, norms: BatchNorms | None
    ) -> Iterator[tuple[float, int, _Weight, int, int]]:
        """Yield (misfit, uses so far, weight, BatchNorm, epsilon) of every accepted triple."""
        if norms is None:
            return
        unit = max(weight.unit, norms.unit)
        with np.errstate(invalid="ignore", over="ignore"):
            bias = norms.factor * (weight.bias - norms.mean) + norms.beta
            terms = np.abs(norms.factor) * (np.abs(weight.bias) + np.abs(norms.mean))
            near = np.abs(bias - layer.bias) <= _allowed(layer, terms + np.abs(norms.beta), unit)
        for eps, number in np.argwhere(near.all(-1)).tolist():
            size = terms[eps, number] + np.abs(norms.beta[number])
            share = _misfit(layer, weight, norms.factor[eps, number], bias[eps, number], unit, size)
            if share <= 1:
                uses = self._used[weight.name] + self._used[norms.names[number]]
                yield share, uses, weight, number, eps


def _entry(match: Match, norms: BatchNorms, number: int) -> BNEntry:
    gamma, var = norms.gamma[number], norms.var[number]
    made = np.maximum(gamma**2 * var / (var + match.eps), VARIANCE_FLOOR)
    return BNEntry(
        tensor=match.node,
        node=match.node,
        mean=tuple(norms.beta[number].tolist()),
        var=tuple(made.tolist()),
        eps=0.0,
        source="teacher",
    )


def _allowed(layer: FoldedLayer, size: Floats | np.floating[Any], unit: float) -> Floats:
    """Return the difference that float rounding explains, for sums whose terms have the absolute sum `size`."""
    return np.asarray(ROUNDINGS * max(layer.unit, unit) * size + layer.slack)


def _has_direction(layer: FoldedLayer, weight: _Weight) -> bool:
    """Return true if the layer's longest row is a multiple of the weight's row; one row is cheap and tells enough."""
    ours = layer.rows[layer.longest].astype(np.float64)
    theirs = weight.rows[layer.longest].astype(np.float64)
    square = float(theirs @ theirs)
    rest = ours - (float(ours @ theirs) / square if square > 0 else 0.0) * theirs
    return bool(np.linalg.norm(rest) <= _allowed(layer, np.linalg.norm(ours), weight.unit))


def _misfit(
    layer: FoldedLayer,
    weight: _Weight,
    factor: Floats,
    bias: Floats,
    unit: float,
    bias_size: Floats | None = None,
) -> float:
    """Return the largest difference between layer and fold, as a share of what is allowed; above 1 for NaN."""
    size = np.abs(bias) if bias_size is None else bias_size
    worst = float(np.max(np.abs(layer.bias - bias) / _allowed(layer, size, unit)))
    if worst <= 1:
        folded = weight.rows.astype(np.float64) * factor[:, None]
        gap = np.abs(layer.rows.astype(np.float64) - folded)
        worst = max(worst, float(np.max(gap / _allowed(layer, np.abs(folded), unit))))
    return worst if worst <= 1 else float("inf")
