"""What a reader follows is there: each link leads to a file, each page is in the index, each verb in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeq.cli.app import app

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


def links_of(page: Path) -> list[str]:
    """Return the files that a page links to, as it writes them."""
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert [link for link in links_of(page) if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    listed = {(INDEX.parent / link).resolve() for link in links_of(INDEX)}
    assert set(INDEX.parent.rglob("*.md")) - listed == {INDEX}


def test_every_verb_is_in_the_table_of_the_readme() -> None:
    rows = re.findall(r"^\| (`.+?`) \| ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([^`]+)`", row)}
    verbs = {
        item.name or item.callback.__name__.replace("_", "-") for item in app.registered_commands
    }
    assert verbs - named == set()
