"""How this program was started, for the commands that it prints."""

from __future__ import annotations

import shlex
import sys
from pathlib import PurePath

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


def command(*args: str) -> str:
    """A command line of this program, quoted for a shell."""
    return f"{program(sys.argv[0])} {shlex.join(args)}"
