"""Puts faults into the reference adapter, one at a time, and fails if the contract suite misses one.

make mutate                            # all of them
python -m tools.mutate 'a read'        # those whose names contain a text
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import multiprocessing
import os
import re
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from backlog_clearer.testing import contract  # imported once, for the processes that fork from here
from tools.bound_mutations import BOUNDS
from tools.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent
MODULE = "backlog_clearer.brokers.memory.source"
TESTS = str(ROOT / "tests" / "brokers" / "test_memory.py")
LIMIT_S = 15  # of one test; it ends a fault that hangs

_QUIET = ("-x", "-q", "--no-header", "--noconftest", "-p", "no:cacheprovider", "-p", "no:warnings")
_PLUGINS = ("-p", "pytest_timeout")  # only this one: to load others takes longer than most faults do


class Verdict(NamedTuple):
    """How the suite ended with one mutation."""

    mutation: Mutation
    code: int  # pytest's; -1 where the mutation does not apply
    seconds: float
    output: str

    @property
    def caught(self) -> bool:
        """Whether a test failed."""
        return self.code == pytest.ExitCode.TESTS_FAILED

    @property
    def text(self) -> str:
        """One line; more where the suite could not be run."""
        found = re.search(r"^FAILED \S+::(\S+)", self.output, re.MULTILINE)
        how = f"caught by {found[1] if found else 'an error'}" if self.caught else "SURVIVED"
        if not self.caught and self.code != pytest.ExitCode.OK:
            how = f"NOT RUN: {self.output[-2000:]}"
        return f"{self.seconds:5.1f} s  {self.mutation.name}: {how}"


def install(mutation: Mutation) -> None:
    """Import the reference adapter with a fault in it; raises `ValueError` if the text does not fit."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ValueError(f"{MODULE} cannot be found")
    text = Path(spec.origin).read_text(encoding="utf-8")
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(f"the text to replace occurs {found} times in {spec.origin}")
    module = importlib.util.module_from_spec(spec)
    code = compile(text.replace(mutation.old, mutation.new), spec.origin, "exec")
    sys.modules[MODULE] = module
    exec(code, module.__dict__)  # noqa: S102 # this repository's own text


def judge(mutation: Mutation) -> Verdict:
    """Run the suite on the reference adapter with a fault in it; needs a process for itself."""
    begun = time.monotonic()
    output = io.StringIO()
    try:
        install(mutation)
    except (ValueError, SyntaxError) as error:
        return Verdict(mutation, -1, 0.0, str(error))
    with redirect_stdout(output), redirect_stderr(output):
        code = pytest.main([*_QUIET, *_PLUGINS, "-o", f"timeout={LIMIT_S}", TESTS])
    return Verdict(mutation, int(code), time.monotonic() - begun, output.getvalue())


@click.command()
@click.argument("text", default="")
def main(text: str) -> None:
    """Run the suite with each mutation whose name contains TEXT."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    chosen = [each for each in (*MUTATIONS, *BOUNDS) if text in each.name]
    begun = time.monotonic()
    missed = 0
    processes = 2 * (os.cpu_count() or 1)  # they wait most of the time
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        for verdict in pool.imap(judge, chosen):
            missed += not verdict.caught
            click.echo(verdict.text)
    click.echo(
        f"{len(chosen) - missed} of {len(chosen)} faults were caught by {contract.__name__}"
        f" in {time.monotonic() - begun:.0f} s"
    )
    sys.exit(1 if missed or not chosen else 0)


if __name__ == "__main__":
    main()
