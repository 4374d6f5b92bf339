"""Write every list of systems from the registry: `python -m tools.generate [--check]`.

A new broker is then one line in `backlog_clearer.registry`, one extra in pyproject.toml, and
`make generate`. The Terraform modules for AWS and Kubernetes have no such list: they take any image, which
may hold systems of other distributions.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import click

from backlog_clearer.registry import SYSTEMS, System

ROOT = Path(__file__).resolve().parent.parent
CLOUDS = ("gcp", "azure", "aws")
"""The extras of the platforms."""

OTEL = "otel"
"""The extra that sends metrics to OpenTelemetry; every bundle has it."""

Systems: TypeAlias = Mapping[str, System]
Rewriter: TypeAlias = Callable[[str, Systems], str]
"""Takes a file's text and the systems, and returns the text with its list of systems renewed."""

_HEADER = ("command", "clears", "position", "backlog counts", "page")
_TABLE = re.compile(r"(?<=<!-- systems -->\n).*?(?=<!-- /systems -->)", re.DOTALL)
_REQUIREMENT = re.compile(r"^((?:-e )?\.)\[.*\]$", re.MULTILINE)
_BUILD_ARGUMENT = re.compile(r"^ARG EXTRAS=.*$", re.MULTILINE)
_CONDITION = re.compile(r"contains\(\[[^]]*\], backlog\.system\)")
_MESSAGE = re.compile(r'"system must be one of [^{"]*, as in')
_NODES = re.compile(r"^( +source ---) .* & memory$", re.MULTILINE)
_PACKAGES = re.compile(r"^      \w+/(?: \w+/)+$", re.MULTILINE)
_EXTRAS = re.compile(r"^\[project\.optional-dependencies\]\n(.*?)^\[", re.MULTILINE | re.DOTALL)
_EXTRA = re.compile(
    r"^(\w+) = \[(.*?)\]$", re.MULTILINE | re.DOTALL
)  # an array ends where its line ends


def extras(systems: Systems) -> list[str]:
    """The extras of these systems, each once, in the registry's order."""
    return list(dict.fromkeys(system.extra for system in systems.values() if system.extra))


def declared_extras() -> dict[str, list[str]]:
    """The requirements of each extra in pyproject.toml; Python 3.10 has no parser of TOML."""
    found = _EXTRAS.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        name: re.findall(r'"([^"]+)"', text) for name, text in _EXTRA.findall(found[1] if found else "")
    }


def table(systems: Systems) -> str:
    """The table of systems in Markdown; neighbours that differ only in their names share a row."""
    rows: list[Sequence[str]] = [_HEADER]
    for (clears, position, unit, page), group in groupby(systems.items(), lambda item: _cells(item[1])):
        commands = ", ".join(f"`{name}`" for name, _ in group)
        rows.append((commands, clears, position, unit, f"[{page}]({page})" if page else ""))
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([lines[0], "|---" * len(_HEADER) + "|\n", *lines[1:]])


def _cells(system: System) -> tuple[str, str, str, str | None]:
    return system.clears, system.position, system.unit, system.page


def _readme(text: str, systems: Systems) -> str:
    return _replaced(_TABLE, table(systems), text)


def _index(text: str, systems: Systems) -> str:
    """The pages of docs/ with the systems that they are about."""
    pages: dict[str, list[str]] = {}
    for system in systems.values():
        if system.page and system.page.startswith("docs/"):
            pages.setdefault(system.page.removeprefix("docs/"), []).append(system.summary)
    rows = "".join(f"| [{page}]({page}) | {'; '.join(about)} |\n" for page, about in pages.items())
    return _replaced(_TABLE, f"| page | for |\n|---|---|\n{rows}", text)


def _packages(systems: Systems) -> list[str]:
    """The folders of the adapters in this repository."""
    folders = [system.opener.removeprefix("backlog_clearer.brokers.") for system in systems.values()]
    return list(dict.fromkeys(folder.split(".")[0] for folder in folders))


def _diagram(text: str, systems: Systems) -> str:
    return _replaced(_NODES, rf"\g<1> {' & '.join([*_packages(systems), 'memory'])}", text)


def _layout(text: str, systems: Systems) -> str:
    folders = " ".join(f"{name}/" for name in _packages(systems))
    return _replaced(_PACKAGES, f"      {folders}", text)


def _requirements(text: str, systems: Systems) -> str:
    return _replaced(_REQUIREMENT, rf"\g<1>[{','.join(extras(systems))}]", text)


def _dockerfile(text: str, systems: Systems) -> str:
    return _replaced(_BUILD_ARGUMENT, f"ARG EXTRAS={','.join([*extras(systems), *CLOUDS, OTEL])}", text)


def _validation(text: str, systems: Systems) -> str:
    *names, last = systems
    condition = f"contains({json.dumps([*names, last])}, backlog.system)"
    text = _replaced(_CONDITION, condition, text)
    return _replaced(_MESSAGE, f'"system must be one of {", ".join(names)} or {last}, as in', text)


def _replaced(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    """The text with the one match replaced; raises `ValueError` unless there is exactly one."""
    text, count = pattern.subn(replacement, text)
    if count != 1:
        raise ValueError(f"{count} places match {pattern.pattern!r}; exactly one has to.")
    return text


FILES: Mapping[str, Rewriter] = {
    "CONTRIBUTING.md": _layout,
    "README.md": _readme,
    "docs/README.md": _index,
    "docs/architecture.md": _diagram,
    "requirements.txt": _requirements,
    "functions/job/Dockerfile": _dockerfile,
    "infra/terraform/azure/variables.tf": _validation,
    "infra/terraform/gcp/variables.tf": _validation,
}
"""The files that are written, by their path in the project."""


def outdated(systems: Systems = SYSTEMS) -> dict[str, str]:
    """The files whose list of systems is not the registry's, with the text that they should have.

    Raises `ValueError` for an extra that pyproject.toml does not declare, and for a file that has no place
    for its list.
    """
    for extra in extras(systems):
        if extra not in declared_extras():
            raise ValueError(f"pyproject.toml declares no extra {extra!r}, which the registry names.")
    found = {}
    for name, rewritten in FILES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        try:
            wanted = rewritten(text, systems)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if wanted != text:
            found[name] = wanted
    return found


@click.command(help=(__doc__ or "").split(":", maxsplit=1)[0] + ".")
@click.option("--check", is_flag=True, help="write nothing; exit with 1 if a file is outdated")
def main(check: bool) -> None:
    """Write the files, or name those that are outdated."""
    for name, text in outdated().items():
        click.echo(f"{'outdated: ' if check else 'written: '}{name}")
        if not check:
            (ROOT / name).write_text(text, encoding="utf-8")
    if check and outdated():
        click.echo("Renew them: make generate", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
