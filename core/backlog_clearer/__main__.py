"""The entry point: `python -m backlog_clearer`, and the installed command."""

import signal


def main() -> None:
    """Run the command line; loads it only now.

    Until a command handles signals, an interrupt ends the process like a SIGTERM: nothing has been changed,
    and there is no traceback of a module that was being loaded.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from backlog_clearer.cli.commands import main as run  # noqa: PLC0415 see above
    from backlog_clearer.ending import run_and_end  # noqa: PLC0415

    run_and_end(run)


if __name__ == "__main__":
    main()
