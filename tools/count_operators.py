"""Run ONNX's own node tests through the importer and write docs/operators.md: what passes, and what is refused and why.

The tests that ship in the `onnx` package, restricted to models of supported operators and to types that edgeq reads. A
test passes if the importer computes its outputs twice: with all inputs as graph inputs, and with all but the first as
initializers, which takes the path of constants that are written into the call. Only the first output is compared where
edgeq gives only one.
"""

from __future__ import annotations

import argparse
import collections
import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.test.loader import load_model_tests

import edgeq.teacher  # noqa: F401  # fills the table of converters
from edgeq.graph.structure import OPSET_MAX, OPSET_MIN
from edgeq.teacher.converters import CONVERTERS, TORCH_TYPES
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.support import REASONS

DOCUMENT = Path(__file__).parents[1] / "docs" / "operators.md"
TYPES = {"bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"}
VERSION = onnx.__version__.rsplit(".", 1)[0]
COMPOSED = "several"  # the row of tests whose model has more than one operator

ALIGNED = (
    "ONNX Runtime rounds the length of the result before it aligns the corners, the reference does not; "
    "edgeq follows ONNX Runtime, which the teacher is proved against"
)
DATA = "the shape of the result depends on the data; only a constant is taken there"
EMPTY = "the extremum of nothing is refused by torch"
TRAINING = "training mode is refused"

# Tests that must fail, and why.
REFUSED = {
    "test_batchnorm_epsilon_training_mode": TRAINING,
    "test_batchnorm_example_training_mode": TRAINING,
    "test_compress_0": DATA,
    "test_compress_1": DATA,
    "test_compress_default_axis": DATA,
    "test_compress_negative_axis": DATA,
    "test_nonzero_example": DATA,
    "test_reduce_max_empty_set": EMPTY,
    "test_reduce_max_empty_set_bool": EMPTY,
    "test_reduce_min_empty_set": EMPTY,
    "test_resize_downsample_scales_cubic_align_corners": ALIGNED,
    "test_resize_downsample_scales_linear_align_corners": ALIGNED,
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
    "test_training_dropout_zero_ratio": TRAINING,
    "test_training_dropout_zero_ratio_mask": TRAINING,
}

INTRODUCTION = """# Operators

<!-- Written by `python tools/count_operators.py`; do not edit. -->

The importer turns an ONNX file of opset {minimum} to {maximum} into a PyTorch module, one call a node. It knows
{operators} operators, Constant among them. Every other one is refused by name, all of a file in one message.

{passed} of {total} node tests pass ({share:.1f} %): those of the `onnx` package {version} whose operators are in the
table below and whose tensors are floats of 16 to 64 bits, integers or booleans. Each is run twice, with its operands
as inputs and as constants. What ONNX's tests leave out (older opsets, an operator of 0 tests) is compared with
ONNX Runtime in `tests/unit/teacher/test_forms.py` and `test_resize.py`.

Calls of functions that the file defines are replaced by their bodies (`onnx.inliner`), and every If whose condition
is constant, or follows from static shapes, by the branch that is taken.

Shape arithmetic is folded by the `onnx` package: its shape inference propagates the values of shape tensors axis by
axis; nodes that have constant operands then are run once, at import. The fold keeps the batch axis open, because
training uses other batches than the file. onnxscript and onnxslim were tried in its place. Both drop or rename
tensors that Q/DQ placement needs by name, and both leave `Gather(Shape(x), 2)` unfolded where the batch is dynamic,
which is the ordinary case; so neither is worth a dependency.
"""

# A float16 sum in another order differs by a few units in the last of 11 bits.
HALF_TOLERANCE = 4 * 2.0**-10


@functools.cache
def cases() -> dict[str, list[Any]]:
    """Return the test cases of each operator; those of several operators are under `COMPOSED`."""
    found = collections.defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about overflow in the generators of the cases
        everything = load_model_tests(kind="node")
    for case in everything:
        if case.model is not None and _is_ours(case):
            found[_operator(case.model.graph)].append(case)
    return found


def _operator(graph: onnx.GraphProto) -> str:
    return graph.node[0].op_type if len(graph.node) == 1 else COMPOSED


def data_sets(case: Any) -> list[Any]:
    """Return the (inputs, outputs) of a case; some generators give TensorProtos."""
    return [
        [
            [
                onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item
                for item in side
            ]
            for side in data_set
        ]
        for data_set in case.data_sets
    ]


def _is_ours(case: Any) -> bool:
    nodes = case.model.graph.node
    casts = [item.i for node in nodes for item in node.attribute if item.name == "to"]
    arrays = (item for inputs, outputs in data_sets(case) for item in (*inputs, *outputs))
    return (
        all(not node.domain and _is_known(node.op_type) for node in nodes)
        and set(casts) <= set(TORCH_TYPES)
        and all(str(getattr(item, "dtype", "none")) in TYPES for item in arrays)
        and _opset_allows(case.model)
    )


def _is_known(op_type: str) -> bool:
    return op_type in CONVERTERS or op_type == "Constant"


def _opset_allows(model: onnx.ModelProto) -> bool:
    """Return true unless the model uses what came after the newest opset that edgeq reads."""
    try:
        onnx.checker.check_model(_in_known_opset(model))
    except onnx.checker.ValidationError:
        return False
    return True


def _in_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = copy.opset_import[0]
    opset.version = min(max(opset.version, OPSET_MIN), OPSET_MAX)
    return copy


def _run(model: onnx.ModelProto, inputs: list[Any], *, as_constants: bool) -> list[Any]:
    names = [item.name for item in model.graph.input]
    if as_constants:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in list(zip(names, inputs, strict=True))[1:]
        )
        model, inputs = copy, inputs[:1]
    module = import_teacher(model).module
    return [item.numpy() for item in module(*(torch.from_numpy(np.array(item)) for item in inputs))]


def check(case: Any) -> None:
    """Raise if the importer refuses a case, or computes something else."""
    model = _in_known_opset(case.model)
    nodes = model.graph.node
    if len(nodes) == 1 and nodes[0].op_type in CONVERTERS:
        del model.graph.output[
            len(nodes[0].output) if CONVERTERS.get(nodes[0].op_type).returns_tuple else 1 :
        ]
    for inputs, expected in data_sets(case):
        for as_constants in (False, True)[: len(inputs)]:
            found = _run(model, inputs, as_constants=as_constants)
            for ours, theirs in zip(found, expected, strict=False):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                rtol = HALF_TOLERANCE if theirs.dtype == np.float16 else case.rtol
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=max(case.atol, 1e-6))


def failure(case: Any) -> str | None:
    """Return why a case fails, or None."""
    try:
        check(case)
    except Exception as error:  # whatever a faulty converter raises is a finding
        return f"{case.name}: {type(error).__name__}: {error}"
    return None


def row(operator: str, passed: int, total: int) -> str:
    """Return the line of the table that tells how an operator fares."""
    return f"| {operator} | {passed} | {total} |"


def count() -> dict[str, tuple[int, int]]:
    """Return (passed, all) node tests by operator, in alphabetical order.

    Raises:
        RuntimeError: if a test fails that is not listed in `REFUSED`, or the other way about.
    """
    odd = []
    counts = {}
    for operator in (*CONVERTERS.names(), COMPOSED):
        faults = {case.name: failure(case) for case in cases()[operator]}
        odd += [text or name for name, text in faults.items() if bool(text) != (name in REFUSED)]
        counts[operator] = (sum(text is None for text in faults.values()), len(faults))
    if odd:
        raise RuntimeError("\n".join(odd))
    return counts


def render(counts: dict[str, tuple[int, int]]) -> str:
    """Return docs/operators.md."""
    passed, total = (sum(items) for items in zip(*counts.values(), strict=True))
    reasons = collections.defaultdict(list)
    for name, reason in REFUSED.items():
        reasons[reason].append(f"`{name}`")
    refusals = [f"- {reason}: {', '.join(names)}." for reason, names in reasons.items()]
    by_design = collections.defaultdict(list)
    for operator, reason in REASONS.items():
        by_design[reason].append(operator)
    return "\n".join(
        [
            INTRODUCTION.format(
                minimum=OPSET_MIN,
                maximum=OPSET_MAX,
                operators=len(CONVERTERS.names()) + 1,
                passed=passed,
                total=total,
                share=100 * passed / total,
                version=VERSION,
            ),
            "## Tests passed, by operator",
            "",
            f"`{COMPOSED}` are tests whose model has several operators, most of them the bodies of ONNX's functions.",
            "",
            "| operator | passed | of |",
            "|---|---|---|",
            *(row(operator, *pair) for operator, pair in counts.items()),
            "",
            "## Tests refused, by reason",
            "",
            *refusals,
            "",
            "## Operators refused by design",
            "",
            *(f"- {', '.join(sorted(names))}: {reason}." for reason, names in by_design.items()),
            "",
        ]
    )


def main() -> None:
    """Write the document, or with --check tell whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = render(count())
    if not arguments.check:
        DOCUMENT.write_text(text, "utf-8")
    elif DOCUMENT.read_text("utf-8") != text:
        raise SystemExit(f"{DOCUMENT.name} is out of date: run python tools/count_operators.py")


if __name__ == "__main__":
    main()
