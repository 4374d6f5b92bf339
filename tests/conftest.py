"""Rules for every test: which need a server, what is skipped where a machine lacks something, the order."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backlog_clearer.redaction.redact import forget_secrets
from backlog_clearer.testing.support import UnavailableError
from tests.infra.terraform import USED

if TYPE_CHECKING:
    from backlog_clearer.testing.servers.azurite import Azurite

# Their assertions show what they compared, too.
pytest.register_assert_rewrite("backlog_clearer.testing.servers")

NO_SKIPS = os.environ.get("BACKLOG_CLEARER_NO_SKIPS") == "1"
"""Set by CI: a test whose requirements could have been installed must not be skipped."""

_TIMEOUT_S = 600
_OWN = frozenset({"backlog_clearer", "bench", "demo", "functions", "tests", "tools"})
_SERVERS = frozenset({"adapters", "distribution", "functions", "infra", "real"})
_SERVERLESS = ("test_memory", "_wire", "_settings")
"""How files of tests/brokers end that start no server. The others do, if only one written in Python."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--quick`, `--seeds` and `--answers`."""
    parser.addoption("--quick", action="store_true", help="only tests that start no server")
    parser.addoption(
        "--seeds", type=int, default=2, metavar="N", help="random runs of each test that has a seed"
    )
    parser.addoption(
        "--answers", type=int, default=0, metavar="N",
        help="how many answers to each kind of request the contract damages; 0: as few as usual",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, those of a plugin that is not installed included."""
    config.addinivalue_line(
        "markers", "server: starts a server, or needs the network or another program"
    )
    with suppress(ImportError):
        from hypothesis import settings  # noqa: PLC0415 not installed everywhere

        examples = 50 if config.getoption("quick") else 100  # `make test` tries as many as is usual
        settings.register_profile("backlog-clearer", deadline=None, max_examples=examples)
        settings.load_profile("backlog-clearer")
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): has no effect without pytest-timeout")


def _starts_server(path: Path) -> bool:
    folder = path.parent.name
    return folder in _SERVERS or (folder == "brokers" and not path.stem.endswith(_SERVERLESS))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--quick`, do not import what starts servers, and its conftest.py: that needs more packages."""
    serving = (
        _starts_server(collection_path) if collection_path.suffix else collection_path.name in _SERVERS
    )
    ignored = config.getoption("quick") and serving
    return True if ignored else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select for `--quick`, bound each test's time, and put what takes longest first."""
    for item in items:
        if _starts_server(item.path):
            item.add_marker("server")
    if config.getoption("quick"):
        left_out = [item for item in items if item.get_closest_marker("server")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    if hasattr(config, "workerinput"):
        from tests.scheduling import seconds_of  # noqa: PLC0415 needs xdist

        items.sort(key=lambda item: -seconds_of(item.nodeid))


@pytest.fixture(autouse=True)
def _no_secret_of_another_test() -> None:
    """What is secret to one test may be an ordinary name in the next."""
    forget_secrets()


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A storage account: one Azurite for all tests of a worker, each with containers and queues of its own."""
    from backlog_clearer.testing.servers.azurite import azurite  # noqa: PLC0415 after its assertions' rewrite

    with azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


def _missing(error: BaseException | None) -> str | None:
    """What an import error reports as missing; None where it is this repository's fault."""
    if not isinstance(error, ImportError) or error.name is None or error.name.split(".")[0] in _OWN:
        return None
    if isinstance(error, ModuleNotFoundError):
        return f"needs the Python package {error.name!r}"
    # A part of a namespace package (google.cloud) that another distribution made
    return None if error.path else f"needs a Python package: {error}"


def pytest_exception_interact(call: pytest.CallInfo[Any], report: Any) -> None:
    """A module that imports a package which is not installed is skipped with that reason."""
    if not isinstance(report, pytest.CollectReport) or call.excinfo is None or NO_SKIPS:
        return
    reason = _missing(call.excinfo.value.__cause__)
    if reason is not None:
        report.outcome = "skipped"
        report.longrepr = (report.fspath, 0, f"Skipped: {reason}")


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except UnavailableError as error:
        reason = str(error)
    except ImportError as error:
        missing = _missing(error)
        if missing is None:
            raise
        reason = missing
    if NO_SKIPS:
        pytest.fail(f"CI skips nothing that it could install: {reason}")
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Skip, or in CI fail, where a fixture lacks something."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip, or in CI fail, where a test lacks something."""
    return (yield from _skipping())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Used where there are several workers."""
    from tests.scheduling import Scheduler  # noqa: PLC0415 needs xdist

    config.option.loadscopereorder = False  # in the order of the collection
    return Scheduler(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over which providers it used."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["providers"] = sorted(USED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker hands over."""
    USED.update(tuple(item) for item in getattr(node, "workeroutput", {}).get("providers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print for each Terraform module whether real providers or stubs checked it."""
    if USED:
        terminalreporter.section("Terraform providers")
        for module, providers in sorted(USED):
            terminalreporter.line(f"{module}: {providers}")
