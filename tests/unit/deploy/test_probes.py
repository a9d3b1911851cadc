from __future__ import annotations

import json

import onnx
import pytest

from deploy.cards import card_names, load_card
from deploy.probes import FACTS, make_probes, write_probes

PROBES = {probe.name: probe for probe in make_probes()}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_valid_onnx_and_small(name):
    model = PROBES[name].model
    if not name.startswith("ir-"):  # the checker knows only IR versions up to its own
        onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 40_000


def test_each_probe_has_a_name_of_its_own():
    assert len(PROBES) == len(list(make_probes()))


def test_what_shall_run_in_int8_is_meant_to(tmp_path):
    write_probes(tmp_path, None)
    index = json.loads((tmp_path / "probes.json").read_text())
    meant = {item["name"] for item in index["probes"] if item["meant"]}
    assert {"int8-conv", "float-weights", "fp16-typed"} <= meant
    assert not any(name.startswith(("int4", "opset")) for name in meant)


@pytest.mark.parametrize("name", [name for name in card_names() if name != "cpu"])
def test_the_facts_of_every_card_are_carried_with_their_evidence(tmp_path, name):
    write_probes(tmp_path, load_card(name))
    facts = json.loads((tmp_path / "probes.json").read_text())["card"]["facts"]
    assert set(facts) == set(FACTS)
    assert all(fact["evidence"] for fact in facts.values())
