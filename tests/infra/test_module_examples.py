"""The modules' own tests give every variable, and every part of it, another value than its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.paths import ROOT

MODULES = ROOT / "infra" / "terraform"
NAMES = sorted(path.parent.name for path in MODULES.glob("*/versions.tf"))

_VARIABLE = re.compile(r'^variable "(\w+)" \{\n(.*?)^\}$', re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^ {4,}(\w+)\s+=\s+(?:optional\(|string$|number$|bool$|map\()", re.MULTILINE)
_BOUND = re.compile(r'source\s*=\s*"hashicorp/(\w+)"\n\s*version\s*=\s*"([^"]+)"')
_RUN = re.compile(r'^run "\w+" \{\n.*?^\}$', re.MULTILINE | re.DOTALL)


def planned(module: Path) -> str:
    """The tests of a module without the runs that are refused."""
    texts = []
    for path in sorted((module / "tests").glob("*.tftest.hcl")):
        text = path.read_text(encoding="utf-8")
        runs = _RUN.findall(text)
        kept = [run for run in runs if "expect_failures" not in run]
        if kept:
            texts += [_RUN.sub("", text), *kept]
    return "\n".join(texts)


def unused(module: Path) -> list[str]:
    """Variables, and parts of those that are objects, that no run sets."""
    text = planned(module)
    names = []
    for name, body in _VARIABLE.findall((module / "variables.tf").read_text(encoding="utf-8")):
        parts = _PART.findall(body.split("validation {")[0]) if "object(" in body else []
        names += [(name, name), *((f"{name}.{part}", part) for part in parts)]
    return [shown for shown, name in names if not re.search(rf"(?<![\w.]){name}\s*=[^=]", text)]


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_set_in_a_run_that_plans(name: str) -> None:
    """No variable, and no part of one, is left at its default by all runs of the module."""
    assert unused(MODULES / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_pins_one_major_version_within_the_modules_bounds(name: str) -> None:
    """A module allows the versions that it was checked with; a root takes one major version of them."""
    allowed = dict(_BOUND.findall((MODULES / name / "versions.tf").read_text(encoding="utf-8")))
    for path in sorted((MODULES / name / "examples").glob("*/main.tf")):
        pins = dict(_BOUND.findall(path.read_text(encoding="utf-8")))
        assert pins.keys() == allowed.keys()
        for provider, pin in pins.items():
            version = SpecifierSet(allowed[provider])
            assert pin.startswith("~> "), pin
            assert version.contains(pin.removeprefix("~> ")), (pin, allowed[provider])


def test_a_variable_that_no_run_sets_is_found(tmp_path: Path) -> None:
    """A variable and a part that only a refused run sets are listed."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "variables.tf").write_text(
        'variable "size" {\n  type = object({\n    cpu = optional(number, 1)\n    memory = number\n  })\n}\n'
        'variable "name" {\n  type = string\n}\n'
    )
    (tmp_path / "tests" / "module.tftest.hcl").write_text(
        'variables {\n  size = { memory = 1 }\n}\n\nrun "planned" {\n}\n\n'
        'run "refused" {\n  variables {\n    name = ""\n    size = { cpu = 0 }\n  }\n'
        "  expect_failures = [var.name]\n}\n"
    )
    assert unused(tmp_path) == ["size.cpu", "name"]
