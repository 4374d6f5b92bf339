"""The command line of a checkout; once installed, it is the command `backlog-clearer`."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the modules below are loaded

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "core"))
from backlog_clearer.__main__ import main  # found only now

main()
