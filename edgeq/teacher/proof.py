"""Proof that the teacher computes what ONNX Runtime computes, on random inputs from the legal box.

ONNX Runtime runs with its graph optimisation off, so that both sides do the same arithmetic. The intermediate tensors
are looked at only after a difference, to name the first one that diverges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from edgeq.core.errors import InputError, ModelError
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.samples import join_results
from edgeq.core.serial import Spec
from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.execution import Array, RuntimeSession, run_module, to_array
from edgeq.teacher.teacher import Teacher, with_outputs

# Two float32 programs that add the terms of a dot product in another order differ by about sqrt(terms) * 2^-24 of the
# result a layer. 1e-4 is 1700 * 2^-24: 100 layers of 4608 terms (3 x 3 x 512) with independent errors stay at 680.
RELATIVE_TOLERANCE = 1e-4
# Two programs may round the same value of a float16 output (11 bits) to different sides.
HALF_TOLERANCE = 2.0**-10
BFLOAT16_TOLERANCE = 2.0**-7
# Keeps an output that is zero everywhere from asking for equal bits.
ABSOLUTE_TOLERANCE = 1e-5

# The second batch size of a dynamic batch axis: neither 1 nor a power of 2, so that a frozen size shows.
_OTHER_BATCH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofResult(Spec):
    """How near the teacher is to ONNX Runtime.

    Attributes:
        largest_abs: largest absolute difference of any output.
        largest_rel: largest difference, as a share of the same output's largest absolute value.
        tolerance: the absolute difference that was allowed where `largest_abs` occurred.
        outputs: names of the outputs compared.
        samples: number of random samples.
    """

    largest_abs: float
    largest_rel: float
    tolerance: float
    outputs: tuple[str, ...]
    samples: int


def prove_equal(
    teacher: Teacher,
    model: onnx.ModelProto,
    inputs: Sequence[InputSpec],
    *,
    seed: int,
    batches: int = 2,
    progress: Progress | None = None,
) -> ProofResult:
    """Compare every output of the teacher with ONNX Runtime's on random inputs.

    Args:
        teacher: made from `model`, on the CPU.
        model: as it was imported.
        inputs: one a graph input; values are drawn evenly from their `low`..`high`.
        seed: of the random inputs.
        batches: how many are run; of a dynamic or absent batch axis the sizes 1 and 3 take turns.
        progress: is told of every batch.

    Raises:
        InputError: if `inputs` does not cover the graph inputs.
        ModelError: if a program fails, an output is not finite, or a difference exceeds the tolerance; names the first
            tensor that diverges.
    """
    listener = progress or NoProgress()
    specs = _in_order(teacher, inputs)
    generator = np.random.default_rng(seed)
    session = RuntimeSession(model)
    differences: list[_Difference] = []
    samples = 0
    listener.start("prove", batches, "batch")
    for number in range(batches):
        size = _batch_size(specs, number)
        feed = {spec.name: _draw(spec, size, generator) for spec in specs}
        expected = _run_runtime(session, teacher.outputs, feed, specs)
        found = run_module(teacher.module, feed)
        for name, ours, theirs in zip(teacher.outputs, found, expected, strict=True):
            is_bfloat16 = ours.dtype is torch.bfloat16
            relative = BFLOAT16_TOLERANCE if is_bfloat16 else None
            difference = _compare(name, to_array(ours), theirs, relative=relative)
            if not difference.is_allowed:
                raise _diverged(difference, teacher, model, feed, specs)
            differences.append(difference)
        samples += size
        listener.advance(largest_abs=max(item.largest_abs for item in differences))
    worst = max(differences, key=lambda item: item.largest_abs)
    listener.finish(
        f"equal to ONNX Runtime within {worst.largest_abs:.1e} (allowed {worst.tolerance:.1e})"
    )
    return ProofResult(
        largest_abs=worst.largest_abs,
        largest_rel=max(item.largest_rel for item in differences),
        tolerance=worst.tolerance,
        outputs=teacher.outputs,
        samples=samples,
    )


def require_same(
    original: onnx.ModelProto, lowered: onnx.ModelProto, inputs: Sequence[InputSpec], *, seed: int
) -> None:
    """Check that a model in another opset gives what the original gives in ONNX Runtime, on random inputs.

    The two may run on different kernels of one operator, so the tolerance is that of `prove_equal`.

    Raises:
        ModelError: if a model does not run, or an output differs.
    """
    specs = list(inputs)
    generator = np.random.default_rng(seed)
    names = [item.name for item in original.graph.output]
    sessions = [RuntimeSession(model) for model in (original, lowered)]
    for number in range(2):
        size = _batch_size(specs, number)
        feed = {spec.name: _draw(spec, size, generator) for spec in specs}
        expected, found = (_run_runtime(item, names, feed, specs) for item in sessions)
        for name, ours, theirs in zip(names, found, expected, strict=True):
            if not _compare(name, ours, theirs).is_allowed:
                raise ModelError(
                    f"output '{name}' changes when the model's opset is lowered to what the target takes",
                    why="an operator means something else in the older opset",
                    mend="export the model again with an opset that the target takes (`edgeq targets` lists them)",
                    node=name,
                )


def require_any_batch(teacher: Teacher, inputs: Sequence[InputSpec], *, seed: int) -> None:
    """Check that a teacher of a file with a fixed batch size gives every sample what it has in that batch.

    Raises:
        InputError: if `inputs` does not cover the graph inputs.
        ModelError: if a larger batch cannot be run, or the samples of one influence each other.
    """
    specs = _in_order(teacher, inputs)
    size = _batch_size(specs, 0)
    generator = np.random.default_rng(seed)
    feed = {spec.name: _draw(spec, _OTHER_BATCH * size, generator) for spec in specs}
    pieces = [
        run_module(
            teacher.module, {name: np.split(x, _OTHER_BATCH)[number] for name, x in feed.items()}
        )
        for number in range(_OTHER_BATCH)
    ]
    try:
        found = run_module(teacher.module, feed)
    except ModelError as error:
        raise _built_in(size, error.what, error.node) from error
    for name, ours, *parts in zip(teacher.outputs, found, *pieces, strict=True):
        joined = np.concatenate([np.atleast_1d(to_array(part)) for part in parts])
        measured = np.atleast_1d(to_array(ours))
        if measured.shape != joined.shape or not _compare(name, measured, joined).is_allowed:
            raise _built_in(size, f"output '{name}' is not what smaller ones give")


def _built_in(size: int, what: str, node: str | None = None) -> ModelError:
    return ModelError(
        f"the batch size {size} is built into the file; in a larger batch, {what}",
        why="the samples are made and trained on in larger batches, so each must get what it gets alone",
        mend="export the model again with a dynamic batch axis (dynamic_axes, or dynamic_shapes); "
        "if axis 0 is no batch but part of one sample, as in [C, H, W], let the new batch axis (Unsqueeze) be the "
        "first thing done to the input",
        node=node,
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    tensor: str
    largest_abs: float
    largest_rel: float
    tolerance: float

    @property
    def is_allowed(self) -> bool:
        return self.largest_abs <= self.tolerance


def _compare(
    tensor: str, ours: Array, theirs: Array, *, relative: float | None = None
) -> _Difference:
    """Return the difference of one tensor; integers and booleans must be equal, shapes always."""
    if ours.shape != theirs.shape:
        raise ModelError(
            f"tensor '{tensor}' has the shape {list(ours.shape)}, in ONNX Runtime {list(theirs.shape)}",
            why="the teacher must compute exactly what the file says",
            mend="report this model; check it with onnx.checker",
        )
    is_float = np.issubdtype(theirs.dtype, np.floating)
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise ModelError(
            f"tensor '{tensor}' has NaN or infinity for inputs from the legal box",
            why="neither ranges nor losses can be made from it",
            mend="look for NaN or infinity in the weights, or pass narrower --bounds",
        )
    error = float(np.abs(a - b).max(initial=0))
    largest = float(np.abs(b).max(initial=0))
    if relative is None:
        relative = HALF_TOLERANCE if theirs.dtype == np.float16 else RELATIVE_TOLERANCE
    return _Difference(
        tensor=tensor,
        largest_abs=error,
        largest_rel=error / largest if largest else 0.0,
        tolerance=relative * largest + ABSOLUTE_TOLERANCE if is_float else 0.0,
    )


def _run_runtime(
    session: RuntimeSession,
    outputs: Sequence[str],
    feed: Mapping[str, Array],
    specs: Sequence[InputSpec],
) -> list[Array]:
    """Return the outputs for a batch; a file without a batch axis takes its samples one by one."""
    if specs[0].batch != 0:
        return session.run(outputs, feed)
    count = len(feed[specs[0].name])
    rows = [
        session.run(outputs, {name: x[index] for name, x in feed.items()}) for index in range(count)
    ]
    return [join_results(parts) for parts in zip(*rows, strict=True)]


def _diverged(
    difference: _Difference,
    teacher: Teacher,
    model: onnx.ModelProto,
    feed: Mapping[str, Array],
    specs: Sequence[InputSpec],
) -> ModelError:
    """Return the error that names the first tensor, in file order, that differs too much."""
    made = [name for node in model.graph.node for name in node.output]
    names = tuple(name for name in made if name in teacher.fx_node_of)
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    del marked.graph.output[:]
    marked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    expected = _run_runtime(RuntimeSession(marked), names, feed, specs)
    _, found = run_module(with_outputs(teacher, names), feed)
    pairs = zip(names, found, expected, strict=True)
    differences = (_compare(name, to_array(ours), theirs) for name, ours, theirs in pairs)
    first = next((item for item in differences if not item.is_allowed), difference)
    return ModelError(
        f"the teacher differs from ONNX Runtime in output '{difference.tensor}' by "
        f"{difference.largest_abs:.2e} (allowed {difference.tolerance:.2e}); the first tensor that "
        f"diverges is '{first.tensor}', by {first.largest_abs:.2e} (allowed {first.tolerance:.2e})",
        why="everything after this step relies on the teacher computing what the file says",
        mend="report this model and the node; meanwhile export it with another opset_version",
        node=first.tensor,
    )


def _in_order(teacher: Teacher, inputs: Sequence[InputSpec]) -> list[InputSpec]:
    specs = {spec.name: spec for spec in inputs}
    if set(specs) != set(teacher.inputs):
        raise InputError(
            f"inputs {sorted(specs)} were described, the model has {sorted(teacher.inputs)}",
            why="random inputs are drawn for every graph input",
            mend="describe each graph input once",
        )
    return [specs[name] for name in teacher.inputs]


def _batch_size(specs: Sequence[InputSpec], number: int) -> int:
    fixed = [spec.batch for spec in specs if spec.batch]
    return fixed[0] if fixed else (1, _OTHER_BATCH)[number % 2]


def _draw(spec: InputSpec, size: int, generator: np.random.Generator) -> Array:
    """Return [size, *shape] values spread evenly over the legal box; whole numbers for an integer type."""
    is_plain = len(spec.low) == 1 or spec.layout is Layout.NHWC
    bound_shape = (-1,) if is_plain else (-1,) + (1,) * (len(spec.shape) - 1)
    low, high = np.reshape(spec.low, bound_shape), np.reshape(spec.high, bound_shape)
    values = low + (high - low) * generator.random((size, *spec.shape))
    is_float = np.issubdtype(np.dtype(spec.dtype), np.floating)
    return np.asarray(values if is_float else np.rint(values)).astype(spec.dtype)
