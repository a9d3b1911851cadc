"""Write docs/targets.md from the target cards: what each can do, its figures, and where every fact comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from deploy.cards import card_names, load_card
from edgeq.core.specs import TargetCard

DOCUMENT = Path(__file__).parents[1] / "docs" / "targets.md"

HEAD = """# Targets

<!-- Written by `python tools/list_targets.py`; do not edit. -->

One card a target, in `deploy/targets/`; `edgeq targets --show NAME` prints it. What a chip cannot do is refused with
the reason and the nearest thing that it can. No engine was built for any of them; a fact is *verified* here if it was
read in the vendor's source or documentation, enumerated from a shipped binary, or found by running the named version,
and *not* if it was inferred or remembered. Rates are dense and serve estimates only.
"""


def write_document() -> str:
    """Return docs/targets.md."""
    cards = [load_card(name) for name in card_names()]
    return "\n".join([HEAD, *_summary(cards), *(line for card in cards for line in _section(card))])


def _summary(cards: Sequence[TargetCard]) -> list[str]:
    rows = [
        [
            f"[{card.name}](#{_anchor(card.name)})",
            f"{card.runtime} {card.runtime_version}",
            card.compute_capability or "-",
            card.flavour.value,
            ", ".join(item.value for item in card.formats),
            str(card.dla_cores or "-"),
        ]
        for card in cards
    ]
    return [*_table(["target", "runtime", "CC", "graph", "number formats", "DLA cores"], rows), ""]


def _section(card: TargetCard) -> list[str]:
    """Return the part on one card."""
    figures = [
        ["stack", card.stack],
        ["opset, IR", f"{card.opset_min} to {card.opset_max}, up to {card.ir_max}"],
        ["types of the rest", "precision flags" if card.weak_typing else "as written"],
        ["INT8 weights before DQ", "yes" if card.prequantized_weights else "no: FP32 and a pair"],
        ["DLA", card.dla],
        ["memory, bandwidth", f"{_figure(card.memory_gb, 'GB')}, {_figure(card.bandwidth_gb_s, 'GB/s')}"],
        ["INT8, FP16", f"{_figure(card.int8_tops, 'TOPS')}, {_figure(card.fp16_tops, 'TFLOPS')}"],
    ]  # fmt: skip
    sources = [
        [
            ", ".join(source.facts),
            "yes" if source.evidence.is_verified else "no",
            source.evidence.value,
            source.text,
        ]
        for source in card.sources
    ]
    return [
        f"## {card.name}",
        "",
        f"{card.title}.",
        "",
        *_table(["fact", "value"], figures),
        "",
        *(f"- {note}" for note in card.notes),
        "",
        *_table(["facts", "verified", "how", "source"], sources),
        "",
    ]


def _figure(value: float, unit: str) -> str:
    return f"{value:g} {unit}" if value else "-"


def _anchor(name: str) -> str:
    """Return the anchor that Markdown viewers give a heading: letters, digits and '-' stay."""
    return "".join(letter for letter in name if letter.isalnum() or letter == "-")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    ]


def main() -> None:
    """Write the document, or with --check tell whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    text = write_document()
    if not parser.parse_args().check:
        DOCUMENT.write_text(text, encoding="utf-8")
    elif DOCUMENT.read_text("utf-8") != text:
        raise SystemExit(f"{DOCUMENT.name} is out of date: run python tools/list_targets.py")


if __name__ == "__main__":
    main()
