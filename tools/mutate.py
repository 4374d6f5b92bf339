"""Puts faults into the reference adapter, one at a time, and fails if the contract suite misses one.

A test that caught a fault must pass without it: those tests are run once more, on the adapter as it is.

make mutate                            # all of them
python -m tools.mutate 'a read'        # those whose names contain a text
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from backlog_clearer.testing import contract
from tools.bound_mutations import BOUNDS
from tools.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent
MODULE = "backlog_clearer.brokers.memory.source"
TESTS = str(ROOT / "tests" / "brokers" / "test_memory.py")
_UNCHANGED = "no fault"
_UNCHANGED_S = 300  # on a machine with other work it may take long
_TRIES = 3
LIMIT_S = 15  # of one test; it ends a fault that hangs

_OPTIONS = ("-x", "-s", "-o", "addopts=", "-o", f"timeout={LIMIT_S}", "--noconftest")
_PLUGINS = ("pytest_timeout", "no:cacheprovider", "no:warnings", "no:terminal")


class Judged(NamedTuple):
    """How the suite ended with one mutation."""

    mutation: Mutation
    failed: str  # the id of the test that failed; empty where none did
    seconds: float
    problem: str = ""  # why the suite could not be run

    @property
    def text(self) -> str:
        """One line."""
        how = f"caught by {_name(self.failed)}" if self.failed else "SURVIVED"
        if self.problem:
            how = f"NOT RUN: {self.problem}"
        return f"{self.seconds:5.1f} s  {self.mutation.name}: {how}"


def _name(test: str) -> str:
    return test.rpartition("::")[2]


def install(mutation: Mutation) -> None:
    """Put a fault into the reference adapter; raises `ValueError` if the text does not fit."""
    module = importlib.import_module(MODULE)
    path = str(module.__file__)
    text = Path(path).read_text(encoding="utf-8")
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(f"the text to replace occurs {found} times in {path}")
    before = dict(vars(module))
    exec(compile(text.replace(mutation.old, mutation.new), path, "exec"), vars(module))  # noqa: S102 # our own
    for other in list(sys.modules.values()):
        for name, value in list(vars(other).items()):  # what it imported from the module
            if name in before and value is before[name]:
                setattr(other, name, vars(module)[name])


class Mutating:
    """A plugin of pytest: runs the tests that it has collected once for each mutation.

    Each time in a fork of this process, so that nothing is imported or collected again.
    """

    def __init__(self, mutations: Sequence[Mutation]) -> None:
        self.mutations = mutations
        self.caught = 0
        self.failed = ""
        self.sound = False  # the tests that caught faults pass without them
        self.session: pytest.Session

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Print a verdict on each mutation."""
        self.session = session
        catchers = set[str]()
        processes = 2 * (os.cpu_count() or 1)  # they wait most of the time
        with multiprocessing.get_context("fork").Pool(
            processes, _inherit, (self,), maxtasksperchild=1
        ) as pool:
            for verdict in pool.imap(_judged, self.mutations):
                self.caught += bool(verdict.failed)
                catchers.add(verdict.failed)
                click.echo(verdict.text)
            for _ in range(_TRIES):
                unchanged = pool.apply(_judged, (Mutation(_UNCHANGED, "", ""), frozenset(catchers)))
                self.sound = not unchanged.failed and not unchanged.problem
                if self.sound:
                    break
                click.echo(f"FAILS WITHOUT A FAULT: {_name(unchanged.failed) or unchanged.problem}")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which test failed."""
        if report.failed:
            self.failed = report.nodeid

    def judge(self, mutation: Mutation, chosen: Collection[str] | None = None) -> Judged:
        """Run the tests up to the first that fails with a fault in the adapter; needs a process for itself.

        `chosen`: the ids of those to run; None: all.
        """
        begun = time.monotonic()
        items = [item for item in self.session.items if chosen is None or item.nodeid in chosen]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder  # of the tests' `tmp_path`
            try:
                if mutation.name != _UNCHANGED:
                    install(mutation)
                else:
                    for item in items:
                        item.add_marker(pytest.mark.timeout(_UNCHANGED_S))
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    for item, following in zip(items, [*items[1:], None], strict=True):
                        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                        if self.session.shouldfail:
                            break
            except Exception as error:  # noqa: BLE001 # a mutation that cannot be judged is not caught
                return Judged(mutation, "", 0.0, f"{type(error).__name__}: {error}")
        return Judged(mutation, self.failed, time.monotonic() - begun)


_inherited: list[Mutating] = []


def _inherit(mutating: Mutating) -> None:
    _inherited.append(mutating)


def _judged(mutation: Mutation, chosen: Collection[str] | None = None) -> Judged:
    return _inherited[0].judge(mutation, chosen)


@click.command()
@click.argument("text", default="")
def main(text: str) -> None:
    """Run the suite with each mutation whose name contains TEXT."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    mutating = Mutating([each for each in (*MUTATIONS, *BOUNDS) if text in each.name])
    begun = time.monotonic()
    plugins = [word for name in _PLUGINS for word in ("-p", name)]
    code = pytest.main([*_OPTIONS, *plugins, TESTS], plugins=[mutating])
    total = len(mutating.mutations)
    click.echo(
        f"{mutating.caught} of {total} faults were caught by {contract.__name__}"
        f" in {time.monotonic() - begun:.0f} s"
    )
    sys.exit(code or (0 if 0 < mutating.caught == total and mutating.sound else 1))


if __name__ == "__main__":
    main()
