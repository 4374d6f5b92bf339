"""Every Terraform module: its form, its fit to the providers, its plans, its README, its configuration.

AWS is planned with the provider itself; the other providers, and AWS's next version, are schema-checked
against stubs unless the machine has the provider itself. Nothing is applied here.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic_core import PydanticUndefined

from backlog_clearer.fanout.configuration import VARIABLE, Backlog, parse
from backlog_clearer.testing.support import need
from tests.infra.bindings import (
    AWS_6,
    AZURERM_4,
    AZURERM_5,
    GOOGLE_7,
    GOOGLE_8,
    KUBERNETES_3,
    TIME,
    Bindings,
)
from tests.infra.manifests import manifests
from tests.infra.terraform import Terraform, prepare
from tests.paths import ROOT

MODULES = ROOT / "infra" / "terraform"
NAMES = sorted(path.parent.name for path in MODULES.glob("*/versions.tf"))

STUBS: dict[str, tuple[Bindings | None, ...]] = {
    "aws": (None, AWS_6),  # 5: the provider itself
    "azure": (AZURERM_4, AZURERM_5),
    "gcp": (GOOGLE_7, GOOGLE_8),
    "kubernetes": (KUBERNETES_3,),
}
CASES = [
    pytest.param((name, stub), id=f"{name}-{stub.version}" if stub else name)
    for name in NAMES
    for stub in STUBS[name]
]

_TYPES = {"string": "string", "integer": "number", "number": "number", "boolean": "bool"}
_TYPES |= {"object": "map(string)", "array": "list(string)"}
_README = re.compile(r"^```hcl\n# tested\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"\$\{env:(\w+)\}")


@dataclass(frozen=True, slots=True)
class Module:
    """One module with one set of providers, in a separate folder."""

    terraform: Terraform
    folder: Path

    @property
    def mocks(self) -> str:
        """Blocks that mock the module's providers, with the values that its own tests give."""
        source = '\n  source = "../tests/mocks"\n' if (self.folder / "tests" / "mocks").is_dir() else ""
        return "".join(f'mock_provider "{name}" {{{source}}}\n' for name in self.terraform.providers)


@pytest.fixture(scope="module")
def module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Module:
    """The module of the case, initialised with its providers."""
    name, stub = request.param
    terraform, folder = prepare(
        MODULES / name, tmp_path_factory.mktemp(name), *([stub, TIME] if stub else [])
    )
    terraform.init(folder)
    return Module(terraform, folder)


@pytest.fixture(scope="module")
def tested(module: Module) -> tuple[list[str], dict[str, Any]]:
    """The failures of the module's tests, and their plans."""
    return module.terraform.test(module.folder, "-verbose")


def test_every_module_is_tested_with_a_provider() -> None:
    """A module without a case here, or a case without a module, would go unchecked."""
    assert set(NAMES) == set(STUBS)


@pytest.mark.parametrize("name", NAMES)
def test_each_module_is_formatted(name: str, tmp_path: Path) -> None:
    """`terraform fmt` has nothing to change."""
    need("terraform")
    done = Terraform(tmp_path / "none.rc", {}).run(
        MODULES / name, "fmt", "-check", "-recursive", "-diff"
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("module", CASES, indirect=True)
def test_each_module_fits_its_provider(module: Module) -> None:
    """The module and its examples name only arguments, types and blocks that the provider has."""
    examples = sorted((module.folder / "examples").iterdir())
    assert examples
    for root in (module.folder, *examples):
        module.terraform.init(root)
        assert module.terraform.validate(root) == []


@pytest.mark.parametrize("module", CASES, indirect=True)
def test_each_module_plans_what_it_promises(tested: tuple[list[str], dict[str, Any]]) -> None:
    """The module's own tests, with mocked providers, pass."""
    faults, _ = tested
    assert faults == []


@pytest.mark.parametrize("module", CASES, indirect=True)
def test_writes_a_configuration_that_the_handlers_accept(
    tested: tuple[list[str], dict[str, Any]],
) -> None:
    """The configuration in the plans parses, and together they use every key of a backlog."""
    _, plans = tested
    found = [text for plan in plans.values() for text in _configurations(plan)]
    assert found
    used: set[str] = set()
    for text in found:
        value = json.loads(text)
        config = parse(value, dict.fromkeys(_REFERENCE.findall(text), "from-the-secret"))
        assert config.receipts != "receipts", "the module has to set the place of receipts"
        for name, backlog in value["backlogs"].items():
            assert config.backlogs[name].model_fields_set == set(backlog)
            used |= set(backlog)
    assert used == set(Backlog.model_fields)


@pytest.mark.parametrize("module", CASES, indirect=True)
def test_readme_examples_can_be_copied(module: Module) -> None:
    """The README's example is a root module that plans, and applies on mocked providers."""
    blocks = _README.findall((module.folder / "README.md").read_text(encoding="utf-8"))
    assert blocks
    for number, block in enumerate(blocks):
        folder = module.folder / f"readme-{number}"
        folder.mkdir()
        source = rf'source\s*=\s*"[^"]*infra/terraform/{module.folder.name}[^"]*"'
        text, replaced = re.subn(source, 'source = "../"', block)
        assert replaced == 1
        for bundle in re.findall(r'"([^"]+\.zip)"', text):
            _write_bundle(folder / bundle)
        (folder / "main.tf").write_text(text)
        if "required_providers" not in text:  # Terraform mocks only what the root names
            needed = "".join(
                f'{name} = {{ source = "hashicorp/{name}" }}\n' for name in module.terraform.providers
            )
            (folder / "versions.tf").write_text(
                f"terraform {{\nrequired_providers {{\n{needed}}}\n}}\n"
            )
        (folder / "readme.tftest.hcl").write_text(f'{module.mocks}run "readme" {{}}\n')
        module.terraform.init(folder)
        assert module.terraform.test(folder)[0] == []


@pytest.mark.parametrize("name", NAMES)
def test_backlogs_have_the_shape_of_the_configuration(name: str) -> None:
    """The variable `backlogs` has the keys, types and requirements of a configured backlog, no defaults."""
    text = (MODULES / name / "variables.tf").read_text(encoding="utf-8")
    found = re.search(
        r'^variable "backlogs" \{.*?type = map\(object\(\{\n(.*?)^  \}\)\)',
        text,
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    declared = dict(re.findall(r"^ +(\w+) += (.+)$", found[1], re.MULTILINE))
    properties = Backlog.model_json_schema()["properties"]
    assert declared == {
        key: _type(properties[key], field) for key, field in Backlog.model_fields.items()
    }


@pytest.mark.parametrize(
    "module", [case for case in CASES if str(case.id).startswith("kubernetes")], indirect=True
)
def test_manifests_fit_kubernetes(tested: tuple[list[str], dict[str, Any]]) -> None:
    """The provider would send manifests that the published schemas accept, strictly."""
    _, plans = tested
    found = list(manifests(plans["claim"], KUBERNETES_3))
    kinds = {item["kind"] for item in found}
    assert kinds == {"ConfigMap", "CronJob", "Job", "NetworkPolicy", "ServiceAccount"}
    for item in found:
        for version in ("1.33", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(item, version, strict=True)
    pods = [_pod(item) for item in found if item["kind"] in {"CronJob", "Job"}]
    assert all(pod == pods[0] for pod in pods), "a run and a schedule start the same pod"


def _pod(job: dict[str, Any]) -> dict[str, Any]:
    """A job's pod without the backlog's name and the number of slices."""
    spec = job["spec"].get("jobTemplate", job)["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container.pop("args")[0] == "--backlog"
    container["env"] = [item for item in container["env"] if item["name"] != "BACKLOG_CLEARER_TOTAL"]
    return dict(spec)


def _write_bundle(path: Path) -> None:
    """A zip where an example expects one to have been built: a plan does not read its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("main.py", "")


def _type(schema: dict[str, Any], field: Any) -> str:
    """A field's type as Terraform writes it."""
    kinds = [item for item in schema.get("anyOf", [schema]) if item.get("type") != "null"]
    kind = _TYPES[kinds[0].get("type", "string")]  # a reference: the modes, which are strings
    return kind if field.default is PydanticUndefined else f"optional({kind})"


def _configurations(value: Any) -> Iterator[str]:
    """Every known value of the variable in a plan, as a map's entry or as a pair of name and value."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            value = json.loads(value)
        except ValueError:
            return
    if isinstance(value, list):
        for item in value:
            yield from _configurations(item)
    if isinstance(value, dict):
        text = value.get(VARIABLE) or (value.get("value") if value.get("name") == VARIABLE else None)
        if isinstance(text, str) and text.startswith("{"):
            yield text
        for item in value.values():
            yield from _configurations(item)
