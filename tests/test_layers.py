"""Arrows point one way: entry points -> backlog_clearer.run.clear -> engine -> protocol <- brokers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

BROKER_LIBRARIES = {
    "confluent_kafka",
    "pulsar",
    "apache_iggy",
    "google",
    "azure",
    "grpc",
    "kafka",
    "aiokafka",
}
PACKAGE = ROOT / "core" / "backlog_clearer"
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if "testing" not in path.relative_to(PACKAGE).parts
)
BROKERS = [path for path in MODULES if "brokers" in path.relative_to(PACKAGE).parts]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [path for path in MODULES if path not in BROKERS], ids=_id)
def test_only_brokers_import_broker_libraries(path: Path) -> None:
    """Outside `brokers`, a module imports neither a broker's library nor an adapter."""
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & BROKER_LIBRARIES
    assert not {name for name in names if name.startswith("backlog_clearer.brokers")}


@pytest.mark.parametrize("path", BROKERS, ids=_id)
def test_brokers_do_not_reach_up(path: Path) -> None:
    """An adapter knows the protocol and its options, never the engine, the run or the command line."""
    above = ("engine", "run", "fanout", "cli", "registry", "testing")
    names = imports(path)
    assert not {n for n in names if n.startswith(tuple(f"backlog_clearer.{name}" for name in above))}
    assert not {name.split(".")[0] for name in names} & {"functions", "click", "rich"}


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name != "cli"], ids=_id)
def test_only_the_command_line_imports_click_and_rich(path: Path) -> None:
    """A module outside `cli` imports neither click nor rich."""
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "rich"}


def test_handlers_do_not_reach_past_the_core() -> None:
    """Function handlers and the command line import neither adapters nor broker clients."""
    clients = {"confluent_kafka", "pulsar", "apache_iggy", "azure.eventhub", "google.cloud.pubsub"}
    for path in [ROOT / "cleaner.py", *(ROOT / "functions").rglob("*.py")]:
        names = imports(path)
        assert not {name for name in names if name.startswith("backlog_clearer.brokers")}, path
        assert not names & clients, path


def test_core_loads_without_any_broker_library() -> None:
    """The command line's help loads no broker library: a user of one broker needs one."""
    code = (
        "import sys; from click.testing import CliRunner; from backlog_clearer.cli import commands;"
        "CliRunner().invoke(commands.cli, ['kafka', '--help']);"
        "names = {name.split('.')[0] for name in sys.modules};"
        f"loaded = names & {BROKER_LIBRARIES - {'google', 'azure'}!r};"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "core", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_no_file_is_too_long() -> None:
    """No source file is much longer than 500 lines: beyond that it is two."""
    folders = ("core", "functions", "tests", "bench", "demo")
    files = [ROOT / "cleaner.py", *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    long = {
        str(path.relative_to(ROOT)): n
        for path in files
        if (n := len(path.read_text().splitlines())) > 520
    }
    assert not long
