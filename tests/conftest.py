"""What holds for every test: who shares a worker, and what is said of Terraform's providers at the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.infra.terraform import USED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup`, tests of one file, and those of one real broker, share a worker."""
    for item in items:
        group = str(item.path)
        if item.path.parent.name == "real":
            group = "real pulsar" if "pulsar" in item.path.name else "real kafka"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over how it had its providers."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["providers"] = sorted(USED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker hands over."""
    USED.update(tuple(item) for item in getattr(node, "workeroutput", {}).get("providers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a module: nobody shall take what a stub has checked for something that was applied."""
    if USED:
        terminalreporter.section("Terraform providers")
        for module, providers in sorted(USED):
            terminalreporter.line(f"{module}: {providers}")
