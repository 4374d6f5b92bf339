"""The stub of a provider: the faults that it makes Terraform refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.infra.bindings import GOOGLE_8, KUBERNETES_3
from tests.infra.provider_schema import derive
from tests.infra.terraform import prepare

VERSIONS = """
terraform {
  required_providers {
    google = { source = "hashicorp/google", version = ">= 7, < 9" }
  }
}
"""

QUEUE = """
resource "google_cloud_tasks_queue" "q" {
  name     = "drain"
  location = "europe-west1"
  rate_limits {
    max_concurrent_dispatches = 8
  }
}
data "google_project" "own" {}
output "number" { value = data.google_project.own.number }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("max_concurrent_dispatches =", "max_concurent_dispatches =", "Unsupported argument"),
        ("= 8", '= ["8"]', "Incorrect attribute value type"),
        ('location = "europe-west1"', "", "Missing required argument"),
        ("rate_limits {", "rate_limit {", "Unsupported block type"),
        ("  rate_limits {", "  rate_limits {}\n  rate_limits {", "Too many rate_limits blocks"),
        ("google_cloud_tasks_queue", "google_cloud_task_queue", "Invalid resource type"),
        ("own.number", "own.numbre", "Unsupported attribute"),
    ],
)
def test_each_kind_of_fault_is_named(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    """Terraform with the stub accepts what fits, and names each kind of fault."""
    module = tmp_path / "module"
    module.mkdir()
    (module / "main.tf").write_text(VERSIONS + QUEUE.replace(old, new))
    terraform, folder = prepare(module, tmp_path / "work", GOOGLE_8)
    terraform.init(folder)
    found = terraform.validate(folder)
    assert (message is None and not found) or (message is not None and message in found[0])


def test_versions_out_of_bounds_are_refused(tmp_path: Path) -> None:
    """A module that does not admit the stub's version cannot be initialised with it."""
    module = tmp_path / "module"
    module.mkdir()
    (module / "main.tf").write_text(VERSIONS.replace("< 9", "< 8") + QUEUE)
    terraform, folder = prepare(module, tmp_path / "work", GOOGLE_8)
    with pytest.raises(AssertionError, match="no available releases match"):
        terraform.init(folder)


def test_nested_blocks_and_computed_objects_are_read() -> None:
    """Blocks keep their nesting and number, sets stay sets, and computed objects have their fields."""
    job = derive(KUBERNETES_3, ["kubernetes_job_v1"], []).resources["kubernetes_job_v1"]
    pod = job["blocks"]["spec"]["block"]["blocks"]["template"]["block"]["blocks"]["spec"]["block"]
    assert job["blocks"]["metadata"]["min"] == job["blocks"]["metadata"]["max"] == 1
    assert pod["blocks"]["container"]["max"] == 0
    added = pod["blocks"]["container"]["block"]["blocks"]["security_context"]["block"]["blocks"]
    assert added["capabilities"]["block"]["attributes"]["drop"]["type"] == ["list", "string"]
    run = derive(GOOGLE_8, ["google_cloud_run_v2_job"], []).resources["google_cloud_run_v2_job"]
    condition = run["attributes"]["terminal_condition"]["type"]
    assert condition[0] == "list"
    assert condition[1][1]["severity"] == "string"
