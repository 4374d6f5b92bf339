"""Where this repository is, and what its programs need on the module path."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_PATH = os.pathsep.join((str(ROOT / "core"), str(ROOT)))
"""For `PYTHONPATH`: the package, and `functions`."""
