"""Packages from PyPI that are not for the tests' own environment: wheels to read, tools with own pins."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from backlog_clearer.testing.support import cached, unavailable


def environment(name: str, *packages: str, base: str = sys.executable) -> Path:
    """The Python of a virtual environment with these packages, made once; skips where they are not had.

    `base` is the interpreter that it is made from. uv takes a fraction of pip's processor time.
    """
    key = hashlib.sha256(repr((base, sys.version, sorted(packages))).encode()).hexdigest()[:12]
    with cached(f"venv-{name}-{key}") as (folder, complete):
        python = folder / "venv" / "bin" / "python"
        if not complete:
            uv = (sys.executable, "-m", "uv", "--quiet", "--no-progress")
            _run(*uv, "venv", "--clear", "--python", base, str(folder / "venv"))
            _run(*uv, "pip", "install", "--python", str(python), *packages)
    return python


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, without its dependencies; skips where it is not available."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package)
    return next(folder.glob("*.whl"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        last = (done.stderr.strip() or "nothing was printed").splitlines()[-1]
        unavailable(f"needs {command[-1]} from PyPI: {last}")
