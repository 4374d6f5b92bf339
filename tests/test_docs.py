"""The pages are short where they promise it, their links lead somewhere, and their commands exist."""

from __future__ import annotations

from tests.paths import ROOT
from tools import screenshots


def test_the_screen_is_what_a_terminal_shows_after_a_progress_bar() -> None:
    """Lines that were erased or written again are gone; colours stay with their text."""
    output = "plan\r\nbar 10%\r\x1b[2Kbar 90%\r\n\x1b[1A\x1b[2K\x1b[32mdone\x1b[0m\r\nverified\r\n"
    assert screenshots.final_screen(output) == "plan\n\x1b[32mdone\x1b[0m\nverified"


def test_the_picture_needs_no_network_and_names_no_machine() -> None:
    """The README's picture refers to no font or page elsewhere, and shows a verified run."""
    svg = screenshots.PICTURE.read_text(encoding="utf-8").replace("&#160;", " ")
    assert "Verified: yes" in svg
    assert "url(http" not in svg
    assert '"http' not in svg.replace('xmlns="http', "")
    assert str(ROOT) not in svg
