"""Surveys a subscription on a server that announces too much; prints the error and the peak of memory."""

from __future__ import annotations

import json
import resource
import sys
from contextlib import closing
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
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"error": error, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
