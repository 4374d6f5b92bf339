"""Write the tables of inputs and outputs in the Terraform modules' READMEs: `python -m tools.module_tables`.

The text is in the format of `terraform-docs markdown table`, between its markers. Modules are read by
HashiCorp's terraform-config-inspect, the library under terraform-docs, which Go builds once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from backlog_clearer.testing.support import cached, need

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("aws", "azure", "gcp", "kubernetes")

_CENTRED = frozenset({"Required"})
_INSPECT = "github.com/hashicorp/terraform-config-inspect"
_VERSION = "v0.0.0-20260904064934-75d64de68c31"
_TABLES = re.compile(r"(?<=<!-- BEGIN_TF_DOCS -->\n).*?(?=<!-- END_TF_DOCS -->)", re.DOTALL)


def inspected(module: Path) -> Mapping[str, Any]:
    """A module's variables, outputs and required versions; raises `UnavailableError` without Go."""
    need("go")
    with cached(f"terraform-config-inspect-{_VERSION}") as (folder, complete):
        if not complete:
            env = {**os.environ, "GOBIN": str(folder)}
            command = ["go", "install", f"{_INSPECT}@{_VERSION}"]
            subprocess.run(  # noqa: S603 fixed arguments
                command, env=env, check=True, capture_output=True, timeout=600
            )
        program = str(folder / "terraform-config-inspect")
    done = subprocess.run(  # noqa: S603 fixed arguments, and a folder of this repository
        [program, "--json", str(module)], check=True, capture_output=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tables(module: Mapping[str, Any]) -> str:
    """The Markdown of the tables; pure."""
    requirements = [
        ("terraform", ", ".join(module["required_core"])),
        *(
            (name, ", ".join(provider["version_constraints"]))
            for name, provider in sorted(module["required_providers"].items())
        ),
    ]
    inputs = [_input(module["variables"][name]) for name in sorted(module["variables"])]
    outputs = [
        (_anchor("output", name), _cell(module["outputs"][name]["description"]))
        for name in sorted(module["outputs"])
    ]
    return "\n".join(
        (
            "## Requirements\n",
            *_table(
                ("Name", "Version"), ((_anchor("requirement", name), at) for name, at in requirements)
            ),
            "\n## Inputs\n",
            *_table(("Name", "Description", "Type", "Default", "Required"), inputs),
            "\n## Outputs\n",
            *_table(("Name", "Description"), outputs),
            "",
        )
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rules = [f":{'-' * len(name)}:" if name in _CENTRED else "-" * (len(name) + 2) for name in header]
    return [
        f"| {' | '.join(header)} |",
        f"|{'|'.join(rules)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _input(variable: Mapping[str, Any]) -> tuple[str, ...]:
    default = "n/a" if variable["required"] else _code(json.dumps(variable["default"], indent=2))
    return (
        _anchor("input", variable["name"]),
        _cell(variable["description"]),
        _code(variable["type"]),
        default,
        "yes" if variable["required"] else "no",
    )


def _anchor(kind: str, name: str) -> str:
    escaped = name.replace("_", "\\_")
    return f'<a name="{kind}_{name}"></a> [{escaped}](#{kind}\\_{escaped})'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br/>")


def _code(text: str) -> str:
    """Code in a cell: `terraform-docs` puts several lines into a <pre>."""
    if "\n" not in text:
        return f"`{text}`"
    lines = text.replace("|", "\\|").replace("\n", "<br/>")
    return f"<pre>{lines}</pre>"


def outdated() -> dict[Path, str]:
    """The READMEs whose tables are not those of their module, with the text that they should have.

    Raises `ValueError` for a README without the markers.
    """
    found = {}
    for name in MODULES:
        readme = ROOT / "infra" / "terraform" / name / "README.md"
        text = readme.read_text(encoding="utf-8")
        wanted, places = _TABLES.subn(lambda _: tables(inspected(readme.parent)), text)  # noqa: B023 called at once
        if places != 1:
            raise ValueError(
                f"{readme} needs the markers of terraform-docs once; it has them {places} times."
            )
        if wanted != text:
            found[readme] = wanted
    return found


@click.command(help=(__doc__ or "").split(":", maxsplit=1)[0] + ".")
@click.option("--check", is_flag=True, help="write nothing; exit with 1 if a README is outdated")
def main(check: bool) -> None:
    """Write the READMEs, or name those that are outdated."""
    found = outdated()
    for readme, text in found.items():
        click.echo(f"{'outdated' if check else 'written'}: {readme.relative_to(ROOT)}")
        if not check:
            readme.write_text(text, encoding="utf-8")
    sys.exit(1 if check and found else 0)


if __name__ == "__main__":
    main()
