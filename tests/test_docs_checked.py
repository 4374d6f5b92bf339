"""Each page about a platform or a broker names how what it states was checked, in the same few words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

OVERVIEW = ROOT / "infra" / "terraform" / "README.md"
PAGES = [
    OVERVIEW,
    *sorted((ROOT / "infra" / "terraform").glob("*/README.md")),
    *(ROOT / "docs" / f"{name}.md" for name in ("functions", "azure", "jobs")),
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("eventhubs", "googlepubsub", "iggy", "kafka", "pulsar")
    ),
]

_SECTION = re.compile(r"^## How it was checked\n(.*?)(?=^## |^<!-- |\Z)", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^\| claim \| checked \| by \|\n\|---\|---\|---\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_WORD = re.compile(r"^\| ([a-z A-Z]+) \| [^|\n]+ \|$", re.MULTILINE)
_NOTE = re.compile(r" \([^()]*\)")


def rows(page: Path) -> Iterator[tuple[str, list[str], str]]:
    """Claims, the words of their checks, and by what; a note in parentheses may follow a word."""
    sections = _SECTION.findall(page.read_text(encoding="utf-8"))
    assert len(sections) == 1, f"{page}: {len(sections)} sections"
    tables = _TABLE.findall(sections[0])
    assert len(tables) == 1, f"{page}: {len(tables)} tables"
    for line in tables[0].splitlines():
        claim, checked, by = (cell.strip() for cell in line.strip("|").split(" | "))
        yield claim, _NOTE.sub("", checked).split(", "), by


def words() -> set[str]:
    """The words that the overview explains."""
    found = _SECTION.search(OVERVIEW.read_text(encoding="utf-8"))
    assert found is not None
    return set(_WORD.findall(found[1])) - {"word", "claim"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_how_each_claim_was_checked(page: Path) -> None:
    """Every row has words that the overview explains, and the tests that hold it, or what was read."""
    known = words()
    assert {"real provider", "real API server", "emulator", "schema", "read"} <= known
    seen = 0
    for claim, checked, by in rows(page):
        assert claim, page
        assert set(checked) <= known, claim
        tests = re.findall(r"`(tests/[\w/]+\.py)`", by)
        assert tests or checked == ["read"], f"{claim}: no test"
        assert [name for name in tests if not (ROOT / name).is_file()] == [], claim
        assert by, claim
        seen += 1
    assert seen > 1


def test_every_module_and_system_has_such_a_page() -> None:
    """A page that the documentation lists for a system or a platform is one of these."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = index.split("## Systems")[1].split("## Schemas")[0]
    linked = {(ROOT / "docs" / name).resolve() for name in re.findall(r"\]\(([\w./-]+\.md)\)", listed)}
    assert linked == {page.resolve() for page in PAGES}
