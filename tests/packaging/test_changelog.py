"""The changelog says something on the version that the package claims to be."""

from __future__ import annotations

import re
from pathlib import Path

import edgeq

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## \[(.+?)\][^\n]*\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def test_this_version_has_an_entry() -> None:
    entry = SECTIONS.get(edgeq.__version__, SECTIONS.get("Unreleased", ""))
    assert re.search(r"^- \S", entry, re.M)


def test_changes_are_sorted_under_the_words_of_keep_a_changelog() -> None:
    kinds = set(re.findall(r"^### (.+)$", TEXT, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
