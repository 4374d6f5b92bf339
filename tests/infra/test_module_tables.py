"""The tables of inputs and outputs in the modules' READMEs are those of the modules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tools import module_tables

TABLES = """## Requirements

| Name | Version |
|------|---------|
| <a name="requirement_terraform"></a> [terraform](#requirement\\_terraform) | >= 1.9 |
| <a name="requirement_google"></a> [google](#requirement\\_google) | >= 7, < 9 |

## Inputs

| Name | Description | Type | Default | Required |
|------|-------------|------|---------|:--------:|
| <a name="input_max_slices"></a> [max\\_slices](#input\\_max\\_slices) | Slices \\| jobs. | <pre>object({<br/>  a = string<br/>})</pre> | n/a | yes |
| <a name="input_name"></a> [name](#input\\_name) | Prefix. | `string` | `"bc"` | no |

## Outputs

| Name | Description |
|------|-------------|
| <a name="output_url"></a> [url](#output\\_url) | Where. |
"""  # noqa: E501


def test_the_tables_are_those_of_the_modules() -> None:
    """No README would be changed by `make module-tables`."""
    assert module_tables.outdated() == {}


def test_the_format_is_that_of_terraform_docs() -> None:
    """Types of several lines, pipes and underscores do not break a table."""
    variables: list[dict[str, Any]] = [
        {
            "name": "name",
            "description": "Prefix.",
            "type": "string",
            "default": "bc",
            "required": False,
        },
        {
            "name": "max_slices",
            "description": "Slices | jobs.",
            "type": "object({\n  a = string\n})",
            "default": None,
            "required": True,
        },
    ]
    module = {
        "required_core": [">= 1.9"],
        "required_providers": {"google": {"version_constraints": [">= 7, < 9"]}},
        "variables": {variable["name"]: variable for variable in variables},
        "outputs": {"url": {"description": "Where."}},
    }
    assert module_tables.tables(module) == TABLES


def test_a_changed_variable_makes_its_table_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description that was changed in a module, and a README without its place, are found."""
    for name in module_tables.MODULES:
        place = Path("infra", "terraform", name)
        shutil.copytree(module_tables.ROOT / place, tmp_path / place)
    monkeypatch.setattr(module_tables, "ROOT", tmp_path)
    module = tmp_path / "infra" / "terraform" / "aws"
    variables = module / "variables.tf"
    text = variables.read_text(encoding="utf-8")
    variables.write_text(
        text.replace('description = "', 'description = "Another. ', 1), encoding="utf-8"
    )
    assert list(module_tables.outdated()) == [module / "README.md"]
    (module / "README.md").write_text("# AWS\n", encoding="utf-8")
    with pytest.raises(ValueError, match="0 times"):
        module_tables.outdated()
