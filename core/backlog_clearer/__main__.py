"""The entry point: `python -m backlog_clearer`, and the installed command."""

import sys

from backlog_clearer.early import end_on_signals_of_command, end_unusable


def main() -> None:
    """Run the command line; loads it only now, so that signals are handled while it loads."""
    if sys.version_info < (3, 10):  # noqa: UP036 a checkout may be run by any Python
        end_unusable("backlog-clearer needs Python 3.10 or later")
    end_on_signals_of_command()
    try:
        from backlog_clearer.cli.commands import main as run  # noqa: PLC0415 see above
        from backlog_clearer.ending import run_and_end  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("backlog_clearer"):
            raise
        end_unusable(
            f"backlog-clearer needs the Python package {error.name}, which is not installed; in a clone, run:"
            " pip install -r requirements.txt"
        )

    run_and_end(run)


if __name__ == "__main__":
    main()
