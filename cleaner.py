"""The command line of a checkout; once installed, it is the command `backlog-clearer`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "core"))
from backlog_clearer.cli.commands import main  # found only now

main()
