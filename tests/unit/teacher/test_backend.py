"""ONNX's own node tests, for every operator that has a converter; `tools/count_operators.py` knows how they are run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeq.teacher.converters import CONVERTERS
from edgeq.teacher.support import REASONS

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("count_operators", ROOT / "tools/count_operators.py")
assert SPEC is not None
assert SPEC.loader is not None
TOOL = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TOOL)

# Operators of which the onnx package has no node test; test_forms.py has some.
UNTESTED = {"GlobalLpPool"}


@pytest.fixture(scope="session")
def document():
    return TOOL.DOCUMENT.read_text("utf-8")


@pytest.mark.parametrize("operator", [*CONVERTERS.names(), TOOL.COMPOSED])
def test_node_tests_pass_but_the_ones_listed_and_the_document_counts_them(document, operator):
    faults = {case.name: TOOL.failure(case) for case in TOOL.cases()[operator]}
    assert bool(faults) == (operator not in UNTESTED)
    odd = [text or name for name, text in faults.items() if bool(text) != (name in TOOL.REFUSED)]
    assert odd == []
    passed = sum(text is None for text in faults.values())
    if f"package {TOOL.VERSION} " in document:  # another release has other tests
        row = TOOL.row(operator, passed, len(faults))
        assert f"\n{row}\n" in document, "run python tools/count_operators.py"


def test_the_document_lists_these_operators_and_no_others(document):
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in document.splitlines() if " | " in line
    ]
    assert rows[1:] == [*CONVERTERS.names(), TOOL.COMPOSED]


def test_every_refusal_is_told_in_the_document_with_its_reason(document):
    told = {**TOOL.REFUSED, **REASONS}
    assert [name for name, why in told.items() if name not in document or why not in document] == []


def test_a_refused_test_belongs_to_a_known_operator():
    known = {case.name for group in TOOL.cases().values() for case in group}
    assert set(TOOL.REFUSED) <= known


def test_at_least_98_percent_of_the_node_tests_pass():
    total = sum(map(len, TOOL.cases().values()))
    assert total >= 1100
    assert len(TOOL.REFUSED) / total <= 0.02


def test_an_operator_is_either_converted_or_refused():
    assert set(REASONS).isdisjoint(CONVERTERS)
