"""How this program was started, for the commands that it prints."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path, PurePath

INSTALLED = "backlog-clearer"
"""The name of the installed command."""


def program(argv0: str) -> str:
    """The command that starts this program again, from `sys.argv[0]`.

    "python cleaner.py" in a checkout, "python -m backlog_clearer" for the module, otherwise the
    installed command.
    """
    path = PurePath(argv0)
    if path.name == "cleaner.py":
        return f"python {shlex.quote(argv0)}"
    if path.name == "__main__.py" and path.parent.name == "backlog_clearer":
        return "python -m backlog_clearer"
    return INSTALLED


def invocation_line(*args: str) -> str:
    """A command line that starts this program in any directory, quoted for a shell."""
    return shlex.join([*_invocation(sys.argv[0], sys.orig_argv[0] if sys.orig_argv else ""), *args])


def _invocation(argv0: str, interpreter: str) -> list[str]:
    """How this program was started, by paths that hold in any directory."""
    started = program(argv0)
    if started == INSTALLED:
        found = shutil.which(INSTALLED)
        named = PurePath(argv0).name == INSTALLED and Path(argv0).is_file()
        same = found is not None and named and Path(found).samefile(argv0)
        return [str(Path(argv0).absolute()) if named and not same else INSTALLED]
    python = str(Path(interpreter).absolute()) if "/" in interpreter else interpreter or "python"
    return [python, *(["-m", "backlog_clearer"] if "-m" in started else [str(Path(argv0).absolute())])]
