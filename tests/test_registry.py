"""Systems of other distributions, found by their entry points."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backlog_clearer import registry
from backlog_clearer.errors import UsageError
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import System
from tests.command import Ran, cleaner
from tests.invoking import call
from tests.paths import MODULE_PATH, ROOT

MODULE = """
from pydantic import Field

from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.registry import System


class QueueOptions(SystemOptions):
    queue: str = Field(description="queue to clear")


def open_source(options, run, run_id):
    broker = MemoryBroker()
    broker.create("orders", 2)
    broker.produce("orders", 1, 7)
    return MemorySource(broker, options.queue, "billing")


SYSTEM = System(
    summary="a queue of Acme",
    options="acme_queue:QueueOptions",
    opener="acme_queue:open_source",
)
"""


def distribution(folder: Path, name: str, system: str, module: str, source: str) -> None:
    """Install a distribution into a folder as pip does: a module, and its entry point."""
    sys.modules.pop(module, None)  # that of another test
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{system} = {module}:SYSTEM\n")


def cleaner_with(folder: Path, *args: str) -> Ran:
    """Run the command line beside what is installed in a folder."""
    return cleaner(*args, env={"PYTHONPATH": os.pathsep.join((MODULE_PATH, str(folder)))})


def helped(*command: str) -> str:
    """What `--help` of a command prints, and nothing else."""
    shown = call(*command, "--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    return shown.stdout


def test_an_added_system_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution's entry point adds a command with its options, and `status` of it."""
    distribution(tmp_path, "acme-queue", "acme", "acme_queue", MODULE)
    status = cleaner_with(tmp_path, "status", "acme", "--queue", "orders")
    assert status.code == 0, status.stderr
    assert status.result["totals"]["backlog"] == 7
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = helped("acme")
    assert "a queue of Acme" in shown
    assert "--queue" in shown
    assert "a queue of Acme" in helped()


def test_a_broken_package_leaves_other_systems_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that fails at import fails where its system is used, and is named there."""
    distribution(tmp_path, "acme-queue", "acme", "acme_queue", "raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "--bootstrap-servers" in helped("kafka")
    assert "kafka" in helped()
    used = cleaner_with(tmp_path, "status", "acme", "--queue", "orders")
    assert used.code == 2
    assert "acme-queue" in used.stderr
    assert "no licence" in used.stderr


def test_looking_for_systems_imports_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing all names, and using one system, imports no other added package."""
    distribution(tmp_path, "acme-queue", "acme", "acme_queue", "raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.names() == [*registry.SYSTEMS, "acme"]
    assert registry.system("kafka") is registry.SYSTEMS["kafka"]
    with pytest.raises(UsageError, match=r"'acme' of acme-queue .* RuntimeError: imported"):
        registry.system("acme")


def test_a_name_taken_twice_is_an_error_of_that_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two distributions of one system name are both named, and no third system is affected."""
    distribution(tmp_path / "a", "acme-kafka", "kafka", "acme_kafka", MODULE)
    distribution(tmp_path / "b", "one-queue", "queue", "one_queue", MODULE)
    distribution(tmp_path / "c", "two-queue", "queue", "two_queue", MODULE)
    for folder in "abc":
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    with pytest.raises(UsageError, match="backlog-clearer and by acme-kafka"):
        registry.system("kafka")
    with pytest.raises(UsageError, match="(one|two)-queue and by (one|two)-queue"):
        registry.system("queue")
    assert registry.names() == [*registry.SYSTEMS, "queue"]
    assert registry.system("pulsar") is registry.SYSTEMS["pulsar"]


def test_an_entry_point_that_is_not_a_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point's object must be a `System`; the error names the distribution and the object."""
    distribution(tmp_path, "not-queue", "notqueue", "not_queue", "SYSTEM = 'a string'")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="'notqueue' of not-queue .* not_queue:SYSTEM"):
        registry.system("notqueue")


@pytest.mark.parametrize("inside", [True, False])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, inside: bool
) -> None:
    """The printed command names the checkout by '.' only where that is the working directory."""
    monkeypatch.chdir(ROOT if inside else tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_it.py").write_text("import no_such_library")
    entry = System("a queue", "tests.memory_system:MemoryOptions", "needs_it:open_source", "kafka")
    monkeypatch.setitem(registry.SYSTEMS, "queue", entry)
    options = registry.options_model("queue").model_construct()
    where = "." if inside else ROOT
    with pytest.raises(UsageError, match="'no_such_library'") as raised:
        registry.open_source("queue", options, RunOptions(), "run")
    assert f"pip install '{where}[kafka]'" in str(raised.value)
    assert registry.install_command("redis", "acme-queue") == "pip install 'acme-queue[redis]'"


def test_a_library_without_wheels_for_this_python_is_named_as_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An extra that installs nothing on this Python is not what the message asks for."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_wheels.py").write_text("import no_such_library")
    entry = System(
        "a queue", "tests.memory_system:MemoryOptions", "needs_wheels:open_source", "kafka",
        newest_python=(3, 9),
    )  # fmt: skip
    monkeypatch.setitem(registry.SYSTEMS, "queue", entry)
    options = registry.options_model("queue").model_construct()
    with pytest.raises(UsageError, match=r"no wheels for Python 3\.\d+: use Python 3\.9") as refused:
        registry.open_source("queue", options, RunOptions(), "run")
    assert "pip install" not in str(refused.value)


@pytest.mark.parametrize("name", registry.SYSTEMS)
def test_built_in_systems_fill_every_list(name: str) -> None:
    """Each built-in system has an extra, its libraries, a page that exists, and texts for tables."""
    entry = registry.SYSTEMS[name]
    assert entry.extra
    assert entry.libraries
    assert entry.page
    assert (ROOT / entry.page).is_file()
    assert all((entry.clears, entry.position, entry.unit))


def test_a_system_without_a_list_is_answered_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose subscriptions cannot be listed is wrong use, and the answer names those that can."""
    entry = replace(registry.SYSTEMS["iggy"], lister=None, list_options=None)
    monkeypatch.setitem(registry.SYSTEMS, "iggy", entry)
    with pytest.raises(
        UsageError, match=r"^Subscriptions of iggy cannot be listed; list is there for kafka"
    ):
        registry.list_options("iggy")
