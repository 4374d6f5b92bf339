"""The command line of a checkout; once installed, it is the command `backlog-clearer`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "core"))  # noqa: PTH118, PTH120 pathlib loads slowly
from backlog_clearer.__main__ import main  # found only now

main()
