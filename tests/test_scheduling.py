"""How tests are handed out to workers, seen in runs of pytest-xdist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="needs the Python package 'xdist'")

CONFTEST = """
def pytest_xdist_make_scheduler(config, log):
    from tests.scheduling import Scheduler
    config.option.loadscopereorder = False
    return Scheduler(config, log)
"""


@pytest.mark.parametrize("last", [False, True])
def test_a_crashed_worker_costs_its_test_only(tmp_path: Path, *, last: bool) -> None:
    """A test that ends its worker fails once; all others run once, and the run ends."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_a.py").write_text("def test_first(): pass\ndef test_second(): pass\n")
    after = "" if last else "def test_after(): pass\n"
    (tmp_path / "test_b.py").write_text(
        "import os\ndef test_before(): pass\ndef test_crash(): os.abort()\n" + after
    )
    command = f"{sys.executable} -m pytest -p xdist -n 1 --dist loadscope -p no:faulthandler ."
    path = os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}  # loading them takes seconds
    done = subprocess.run(
        command.split(), cwd=tmp_path, env={**os.environ, **alone},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    summary = done.stdout.splitlines()[-1]
    assert f"1 failed, {3 if last else 4} passed" in summary, done.stdout
