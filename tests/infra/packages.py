"""Packages from PyPI that are not for the tests' own environment: wheels to read, tools with own pins."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from backlog_clearer.testing.support import cached, unavailable


def environment(name: str, *packages: str) -> Path:
    """The Python of a virtual environment with these packages, made once; skips where they are not had."""
    with cached(f"venv-{name}-{sys.version_info[0]}.{sys.version_info[1]}") as (folder, complete):
        python = folder / "venv" / "bin" / "python"
        if not complete:
            shutil.rmtree(folder / "venv", ignore_errors=True)
            subprocess.run(
                [sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120
            )
            _pip(str(python), "install", *packages)
    return python


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, without its dependencies; skips where it is not available."""
    _pip(sys.executable, "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package)
    return next(folder.glob("*.whl"))


def _pip(python: str, *args: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        last = (done.stderr.strip() or "pip printed nothing").splitlines()[-1]
        unavailable(f"needs {args[-1]} from PyPI: {last}")
