"""What holds for every test: who shares a worker, and what is said of Terraform's providers at the end."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.infra.terraform import USED

# Their assertions say what they compared, too.
pytest.register_assert_rewrite("backlog_clearer.testing")


class _Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # the library ships no types
    """Tests of one file, and those of one real broker, share a worker, and so what they start.

    `--dist loadgroup` would do that by marks, but has no effect in pytest 9.2 (xdist 3.8).
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(nodeid.partition("::")[0])
        if path.parent.name == "real":
            return "real pulsar" if "pulsar" in path.name else "real kafka"
        return str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Used where there are several workers."""
    return _Scheduler(config, log)


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
