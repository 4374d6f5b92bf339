"""What this repository's modules import, read from their source: every import statement counts.

Imports inside functions and under `TYPE_CHECKING` count like those at the top of a module.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.paths import ROOT

CORE = ROOT / "core"
OURS = ("backlog_clearer", "functions", "tests", "bench", "tools", "demo")
"""Top-level packages of this repository."""


def dotted(path: Path) -> str:
    """The dotted name of a module: "backlog_clearer.run.clear"; a package is named without __init__."""
    parts = path.relative_to(CORE if path.is_relative_to(CORE) else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """The files of all modules by dotted name, sorted."""
    folders = (CORE, *(ROOT / name for name in OURS[1:]))
    found = {dotted(path): path for folder in folders for path in folder.rglob("*.py")}
    return dict(sorted({**found, "cleaner": ROOT / "cleaner.py"}.items()))


@cache
def source(module: str) -> str:
    """The text of a module."""
    return modules()[module].read_text(encoding="utf-8")


@cache
def parsed(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(source(module))


@cache
def imported(module: str) -> frozenset[str]:
    """Dotted names that a module imports: for `from a import b` both "a" and "a.b"."""
    found: set[str] = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or lies in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def graph(*packages: str) -> Mapping[str, frozenset[str]]:
    """The modules in some packages, and which of each other they import."""
    names = frozenset(name for name in modules() if within(name, *packages))
    return {name: (imported(name) & names) - {name} for name in sorted(names)}
