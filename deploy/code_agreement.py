"""Does the student compute what ONNX Runtime computes, code by code?

`read_codes` and `compare_codes` hold the student's integer codes against those of the QuantizeLinear nodes that ship,
with graph optimisation off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.onnxrt import Array, Session
from edgeq.core.errors import BuildError, EdgeqBug
from edgeq.core.plan import QuantPlan, Role
from edgeq.core.serial import Spec
from edgeq.graph.codes import codes_name
from edgeq.graph.view import GraphView


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCodes(Spec):
    """The codes of one tensor, student against ONNX Runtime.

    Attributes:
        tensor: ONNX name.
        count: how many codes were compared.
        differing: how many are not equal.
        largest: the largest difference, in codes.
    """

    tensor: str
    count: int
    differing: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeAgreement(Spec):
    """All quantized activations, student against ONNX Runtime."""

    tensors: tuple[TensorCodes, ...]

    @property
    def largest(self) -> int:
        """Return the largest difference in codes."""
        return max((item.largest for item in self.tensors), default=0)


def read_codes(
    qdq_model: onnx.ModelProto, plan: QuantPlan, inputs: Mapping[str, Array]
) -> dict[str, NDArray[np.int16]]:
    """Return the codes that the model's QuantizeLinear nodes give every quantized activation, by tensor name.

    Codes in a container with a zero point are given without it: those of the plan's grids. A tensor that a form for
    the target's kernels has passed over (`edgeq/graph/move_by_conv.py`) has none.

    Args:
        qdq_model: the model that ships.
        plan: names the quantized activations.
        inputs: by name, [N, ...].

    Raises:
        EdgeqBug: if an activation of the plan has no QuantizeLinear in the model.
    """
    quantizers = quantizer_outputs(qdq_model, plan)
    view = GraphView(qdq_model)
    session = Session(qdq_model, outputs=tuple(quantizers.values()))
    results = session.run(inputs)
    codes = {
        name: results[output].astype(np.int16) - _zero_point(view, output)
        for name, output in quantizers.items()
    }
    # A kernel may be given channels of zeros behind those of the picture (`edgeq/graph/integer_forms.py`).
    own = {
        name: codes[name][:, : x.shape[1]] for name, x in inputs.items() if _is_wide(codes, name, x)
    }
    return codes | own


def _is_wide(codes: Mapping[str, NDArray[np.int16]], name: str, x: Array) -> bool:
    """Return true if the codes of an input have more channels than it has, and are like it else.

    In a file without a batch axis axis 1 is another one.
    """
    if name not in codes or x.ndim < 2 or codes[name].ndim != x.ndim:
        return False
    (count, wide, *positions), (own_count, own, *own_positions) = codes[name].shape, x.shape
    return wide > own and (count, positions) == (own_count, own_positions)


def quantizer_outputs(qdq_model: onnx.ModelProto, plan: QuantPlan) -> dict[str, str]:
    """Return the INT8 tensor of every quantized activation that the model has, by the activation's name.

    Raises:
        EdgeqBug: if an activation of the plan has no QuantizeLinear in the model.
    """
    view = GraphView(qdq_model)
    planned = [item.tensor for item in plan.quantized(Role.ACTIVATION)]
    known = view.names()
    return {
        name: _quantizer_output(view, name, set(planned))
        for name in planned
        if name in known or codes_name(name) in known
    }


def compare_codes(
    expected: Mapping[str, NDArray[np.int16]], measured: Mapping[str, NDArray[np.int16]]
) -> CodeAgreement:
    """Return how far the student's codes are from those of the model.

    Args:
        expected: by tensor name, the student's codes. Where the student passed `measured` on from each tensor to the
            next, a difference is that tensor's own; else it may come from a tie of rounding far before it.
        measured: see `read_codes`.

    Raises:
        EdgeqBug: if a tensor of `expected` is not among `measured`, or its shape differs.
    """
    return CodeAgreement(
        tensors=tuple(_compare_tensor(name, codes, measured) for name, codes in expected.items())
    )


def require_within_one_code(agreement: CodeAgreement) -> None:
    """Check that no code differs by more than one.

    Raises:
        BuildError: names the tensors that are farther off.
    """
    off = [item for item in agreement.tensors if item.largest > 1]
    if not off:
        return
    worst = ", ".join(
        f"'{item.tensor}' (by {item.largest}, {item.differing} of {item.count} differ)"
        for item in sorted(off, key=lambda item: -item.largest)[:5]
    )
    raise BuildError(
        f"student and ONNX Runtime differ by more than one code in {len(off)} tensors: {worst}",
        why="what was trained must be what ships; ties of rounding explain one code, not more",
        mend="report this with the manifest of the build; meanwhile try another --seed",
    )


def _quantizer_output(view: GraphView, tensor: str, planned: set[str]) -> str:
    """Return the INT8 output of the QuantizeLinear that reads `tensor`, directly, clipped to its grid, or padded."""
    between = [
        node.output[0]
        for node, index in view.consumers(tensor)
        # A Clip (ReLU6) or Pad of the user's own makes a tensor with its own decision; ours do not.
        if node.op_type in {"Clip", "Pad"} and index == 0 and node.output[0] not in planned
    ]
    for source in (tensor, *between):
        for node, index in view.consumers(source):
            if node.op_type == "QuantizeLinear" and index == 0:
                return str(node.output[0])
    if view.producer(codes_name(tensor)) is not None:
        return codes_name(tensor)  # made from codes, without a QuantizeLinear
    msg = f"tensor '{tensor}' is quantized in the plan, but has no QuantizeLinear in the model"
    raise EdgeqBug(msg)


def _zero_point(view: GraphView, codes: str) -> NDArray[np.int16]:
    """Return the zero point of the nodes that make or read `codes`, which a Pad in front of them keeps."""
    maker = view.producer(codes)
    for node in (maker, *(node for node, _ in view.consumers(codes))):
        if node is not None and node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            return np.asarray(view.constant(node.input[2]), np.int16)
    if maker is not None and maker.op_type == "Pad":
        return _zero_point(view, maker.input[0])
    msg = f"no node tells the zero point of '{codes}'"
    raise EdgeqBug(msg)


def _compare_tensor(
    tensor: str, expected: NDArray[np.int16], measured: Mapping[str, NDArray[np.int16]]
) -> TensorCodes:
    if tensor not in measured:
        msg = f"tensor '{tensor}' has codes, but the model has none"
        raise EdgeqBug(msg)
    found = measured[tensor]
    if expected.shape != found.shape:
        msg = f"codes of '{tensor}' have the shape {expected.shape}, in the model {found.shape}"
        raise EdgeqBug(msg)
    steps = np.abs(expected.astype(np.int16) - found.astype(np.int16))
    return TensorCodes(
        tensor=tensor,
        count=steps.size,
        differing=int(np.count_nonzero(steps)),
        largest=int(steps.max(initial=0)),
    )
