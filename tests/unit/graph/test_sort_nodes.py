"""Nodes that stand behind their readers move in front of them; nothing else moves."""

from __future__ import annotations

import itertools

import onnx
import pytest

from edgeq.graph.sort_nodes import sort_nodes

CHAIN = """g (float[N] x) => (float[N] y)
{ a = Abs (x) b = Neg (a) c = Exp (x) d = Add (b, c) y = Relu (d) }"""
INNER = """g (float[N] x, bool go) => (float[N] y)
{ y = If (go) <then_branch = t () => (float[N] p) { p = Neg (q) q = Abs (a) },
               else_branch = e () => (float[N] r) { r = Identity (b) }>
  a = Exp (x) b = Abs (x) }"""


def outputs_of(graph: onnx.GraphProto) -> list[str]:
    return [node.output[0] for node in graph.node]


def place(graph: onnx.GraphProto, order: list[int]) -> None:
    nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    graph.ClearField("node")
    graph.node.extend(nodes)


def test_every_order_of_a_chain_becomes_one_that_runs(parse_graph):
    for order in itertools.permutations(range(5)):
        model = parse_graph(CHAIN)
        place(model.graph, list(order))
        sort_nodes(model.graph)
        onnx.checker.check_model(model, full_check=True)


def test_a_node_moves_in_front_of_its_first_reader_and_the_others_stay(parse_graph):
    graph = parse_graph(CHAIN).graph
    place(graph, [2, 1, 3, 4, 0])
    assert sort_nodes(graph) == 1
    assert outputs_of(graph) == ["c", "a", "b", "d", "y"]


def test_a_graph_in_order_is_left_as_it_is(parse_graph):
    graph = parse_graph(CHAIN).graph
    before = graph.SerializeToString()
    assert sort_nodes(graph) == 0
    assert graph.SerializeToString() == before


def test_a_name_that_a_branch_makes_for_itself_is_none_of_the_graph():
    text = """g (float[N] x, bool go) => (float[N] y)
    { y = If (go) <then_branch = t () => (float[N] p) { q = Abs (x) p = Neg (q) },
                   else_branch = e () => (float[N] r) { r = Identity (x) }>
      q = Exp (y) }"""
    assert sort_nodes(onnx.parser.parse_graph(text)) == 0


@pytest.mark.parametrize("loop", ["a", "b"])
def test_a_cycle_is_left_as_it_is(parse_graph, loop):
    graph = parse_graph(CHAIN).graph
    graph.node[0].input[0] = loop
    before = graph.SerializeToString()
    assert sort_nodes(graph) == 0
    assert graph.SerializeToString() == before


def test_what_a_branch_reads_stands_in_front_of_it_and_the_branch_is_sorted_too():
    graph = onnx.parser.parse_graph(INNER)
    assert sort_nodes(graph) == 3
    assert outputs_of(graph) == ["a", "b", "y"]
    assert outputs_of(graph.node[2].attribute[0].g) == ["q", "p"]
