from __future__ import annotations

import json
from typing import Any

from deploy.cards import card_names, load_card


def test_every_card_has_a_line(edgeq: Any) -> None:
    done = edgeq("targets")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == list(card_names())


def test_one_card_is_shown_with_all_its_facts(edgeq: Any) -> None:
    done = edgeq("targets", "--show", "jetson-orin")
    card = load_card("jetson-orin")
    assert card.title in done.out
    told = [*card.notes, card.dla, *(source.text for source in card.sources)]
    assert [text for text in told if text not in done.out] == []


def test_each_source_says_whether_it_was_verified(edgeq: Any) -> None:
    rows = edgeq("targets", "--show", "jetson-orin@jetpack7.2").out.splitlines()
    (typing,) = [row for row in rows if row.startswith("weak_typing") and "bindings" in row]
    (memory,) = [row for row in rows if row.startswith("memory_gb,")]
    assert "  yes       binary " in typing
    assert "  no        recalled " in memory


def test_json_is_the_card_itself(edgeq: Any) -> None:
    assert json.loads(edgeq("targets", "--show", "cpu", "--json").out) == load_card("cpu").to_dict()


def test_an_unknown_target_ends_with_4_and_offers_the_nearest(edgeq: Any) -> None:
    done = edgeq("targets", "--show", "jetson-orim")
    assert done.code == 4
    assert "did you mean jetson-orin" in done.err
