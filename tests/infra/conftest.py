"""Says at the end of a test run how each Terraform provider was had."""

from __future__ import annotations

import pytest

from tests.infra.terraform import USED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a module: nobody shall take what a stub has checked for something that was applied."""
    if USED:
        terminalreporter.section("Terraform providers")
        for module, providers in sorted(USED):
            terminalreporter.line(f"{module}: {providers}")
