"""The entry point: `python -m backlog_clearer`, and the installed command."""

from backlog_clearer.early import end_on_signals_of_command


def main() -> None:
    """Run the command line; loads it only now, so that signals are handled while it loads."""
    end_on_signals_of_command()
    from backlog_clearer.cli.commands import main as run  # noqa: PLC0415 see above
    from backlog_clearer.ending import run_and_end  # noqa: PLC0415

    run_and_end(run)


if __name__ == "__main__":
    main()
