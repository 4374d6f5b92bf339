"""The CPython 3.12 for which bundles and images are made."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from backlog_clearer.testing.support import unavailable


def python312() -> str:
    """The path of a CPython 3.12 with pip, from pyenv or the PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found = [*map(str, sorted(pyenv.glob("versions/3.12.*/bin/python"))), shutil.which("python3.12")]
    works = [
        path
        for path in filter(None, found)
        if not subprocess.run(
            [path, "-m", "pip", "--version"], capture_output=True, check=False
        ).returncode
    ]
    return works[0] if works else unavailable("needs a CPython 3.12 with pip")
