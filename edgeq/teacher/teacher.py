"""The teacher: the user's ONNX graph as a torch.fx.GraphModule, one fx node an ONNX node, under the ONNX names."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeq.core.errors import InputError, describe_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model that torch can run, and where each of its parts comes from.

    Every call node of an ONNX node carries `meta["onnx_node"]` (its id, see `graph.view.node_id`), `meta["onnx_op"]`,
    `meta["onnx_name"]` and `meta["tensor"]` (its first output). Its `args` are the ONNX node's inputs in their order,
    None for an absent one; sizes, axes and limits that are constant stand there as Python values. The parts of a Split
    are `operator.getitem` nodes, which carry `meta["tensor"]` alone.

    Attributes:
        module: in eval mode, no parameter requires a gradient; takes the graph inputs in file order and returns a tuple
            of the graph outputs in file order.
        binding: module attribute to the ONNX tensor it holds. A float initializer or Constant is a parameter;
            integers, booleans and what was computed from constants at import are buffers.
        fx_node_of: ONNX tensor to the name of its fx node, for every activation and for every constant that a node
            reads as a tensor.
        inputs: names of the graph inputs.
        outputs: names of the graph outputs.
    """

    module: fx.GraphModule
    binding: dict[str, str]
    fx_node_of: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def copy(self) -> Teacher:
        """Return an independent teacher with parameters of its own."""
        return dataclasses.replace(self, module=copy.deepcopy(self.module))

    @property
    def device(self) -> torch.device:
        """Return where its constants lie; the CPU if it has none."""
        held = itertools.chain(self.module.parameters(), self.module.buffers())
        return next((item.device for item in held), torch.device("cpu"))

    def on(self, device: torch.device) -> Teacher:
        """Return this teacher if it lies on `device`, else a copy of it there."""
        if self.device == device:
            return self
        copied = self.copy()
        copied.module.to(device)
        return copied


def with_outputs(teacher: Teacher, tensors: Sequence[str]) -> fx.GraphModule:
    """Return a module that also gives intermediate tensors; it shares the teacher's parameters.

    Args:
        teacher: stays as it is.
        tensors: ONNX names, in the wanted order.

    Returns:
        module: returns (graph outputs, captured tensors), two tuples.

    Raises:
        InputError: if a name is no tensor of the teacher.
    """
    for name in tensors:
        if name not in teacher.fx_node_of:
            raise InputError(
                f"the model has no tensor '{name}'",
                why="only tensors that a node of the file makes or reads can be captured",
                mend=describe_choices(name, teacher.fx_node_of),
            )
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(teacher.module.graph, copies)
    by_name = {old.name: new for old, new in copies.items()}
    graph.output((outputs, tuple(by_name[teacher.fx_node_of[name]] for name in tensors)))
    return fx.GraphModule(teacher.module, graph)


def place_behind(node: fx.Node) -> fx.Node:
    """Return where something behind `node` may be inserted: behind all placeholders if it is one of them."""
    while node.op == "placeholder" and node.next.op == "placeholder":
        node = node.next
    return node


def run_and_capture(
    teacher: Teacher, inputs: Sequence[Tensor], tensors: Sequence[str]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the outputs and the named intermediate tensors of one run, with autograd kept.

    In a loop, call `with_outputs` once before it instead.

    Args:
        teacher: stays as it is.
        inputs: one a graph input, in file order.
        tensors: ONNX names.

    Raises:
        InputError: as `with_outputs`.
    """
    outputs, captured = with_outputs(teacher, tensors)(*inputs)
    return outputs, dict(zip(tensors, captured, strict=True))
