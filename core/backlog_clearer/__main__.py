"""`python -m backlog_clearer`."""

from backlog_clearer.cli.commands import main

main()
