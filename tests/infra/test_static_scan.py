"""Findings of checkov, offline, in the Terraform modules as their examples use them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra.packages import environment
from tests.paths import ROOT

MODULES = ROOT / "infra" / "terraform"

UNSAFE = """
resource "aws_security_group" "open" {
  description = "open"
  ingress {
    description = "all"
    from_port   = 22
    to_port     = 22
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
}
"""


@pytest.fixture(scope="module")
def checkov() -> Path:
    """A separate environment: checkov pins old versions of libraries that the tests use."""
    return environment("checkov", "checkov>=3.3,<4")


def scan(checkov: Path, folder: Path) -> dict[str, Any]:
    """The report on a folder; its exit code shows only whether something was found."""
    command = [
        str(checkov),
        "-m",
        "checkov.main",
        "--directory",
        str(folder),
        "--framework",
        "terraform",
    ]
    options = ["--skip-download", "--skip-path", r"/tests/", "--output", "json"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_no_check_fails(checkov: Path) -> None:
    """No check fails in any module, high or low, and each exception has its reason in the file."""
    report = scan(checkov, MODULES)
    results = report["results"]
    found = [(item["check_id"], item["resource"]) for item in results["failed_checks"]]
    assert (found, results["parsing_errors"]) == ([], [])
    seen = {item["file_path"].split("/")[1] for item in results["passed_checks"]}
    assert seen == {path.parent.name for path in MODULES.glob("*/versions.tf")}
    reasons = [item["check_result"]["suppress_comment"] for item in results["skipped_checks"]]
    assert all(len(reason.split()) > 3 for reason in reasons)


def test_an_open_port_is_found(checkov: Path, tmp_path: Path) -> None:
    """A port that is open to the world is found, so the scan is effective."""
    (tmp_path / "main.tf").write_text(UNSAFE)
    found = scan(checkov, tmp_path)["results"]["failed_checks"]
    assert "CKV_AWS_24" in {item["check_id"] for item in found}
