"""Surveys a subscription on a server that announces too much; prints the error and the peak of memory."""

from __future__ import annotations

import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from backlog_clearer.errors import ClearerError
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import open_source, options_model


def survey(system: str, options: dict[str, Any]) -> str:
    """The error of a survey; "" where there is none."""
    try:
        with closing(
            open_source(system, build(options_model(system), options), RunOptions(), "run")
        ) as source:
            source.survey()
    except ClearerError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Survey what the arguments name."""
    error = survey(sys.argv[1], json.loads(sys.argv[2]))
    # Not `ru_maxrss`: it begins with the size of the process that started this one.
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert peak, "the kernel reports no peak of memory"
    sys.stdout.write(json.dumps({"error": error, "peak_mb": int(peak[1]) / 1024}))


if __name__ == "__main__":
    main()
