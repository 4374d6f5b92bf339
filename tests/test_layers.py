"""Arrows point one way: entry points -> core.run -> engine -> protocol <- brokers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
ENGINE_SIDE = sorted(
    path for path in (ROOT / "core").rglob("*.py") if "brokers" not in path.relative_to(ROOT).parts
)


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


@pytest.mark.parametrize("path", ENGINE_SIDE, ids=lambda path: path.name)
def test_core_imports_no_broker_library(path: Path) -> None:
    """Outside core.brokers no module imports a broker's library or an adapter."""
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & BROKER_LIBRARIES
    assert not {name for name in names if name.startswith("core.brokers")}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "core/brokers").glob("*.py")), ids=lambda path: path.name
)
def test_brokers_do_not_reach_up(path: Path) -> None:
    """An adapter knows the protocol and its options, never the engine, the run or the command line."""
    above = {"core.engine", "core.run", "core.plan", "core.receipt", "core.report", "core.registry"}
    names = imports(path)
    assert not names & above
    assert not {name.split(".")[0] for name in names} & {"cleaner", "functions", "click", "rich"}


def test_handlers_do_not_reach_past_the_core() -> None:
    """Function handlers and the command line import neither adapters nor broker clients."""
    clients = {"confluent_kafka", "pulsar", "apache_iggy", "azure.eventhub", "google.cloud.pubsub"}
    for path in [ROOT / "cleaner.py", *(ROOT / "functions").rglob("*.py")]:
        names = imports(path)
        assert not {name for name in names if name.startswith("core.brokers")}, path
        assert not names & clients, path


def test_core_loads_without_any_broker_library() -> None:
    """The command line's help loads no broker library: a user of one broker needs one."""
    code = (
        "import sys; from click.testing import CliRunner; import cleaner;"
        "CliRunner().invoke(cleaner.cli, ['kafka', '--help']);"
        "names = {name.split('.')[0] for name in sys.modules};"
        f"loaded = names & {BROKER_LIBRARIES - {'google', 'azure'}!r};"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
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
