"""`receipts list`, `receipts show` and `receipts prune`: what is kept, and what can still be undone."""

from __future__ import annotations

from typing import Any

import click

from backlog_clearer.cli.flags import NearestNames
from backlog_clearer.cli.talk import ALLOWED, FLAGS, OUTPUT, talk_of
from backlog_clearer.options.run import RunOptions

_DIRECTORY = click.Argument(["directory"], default=RunOptions().receipt_dir, required=False)
_SCHEMES = click.Option(
    ["--receipt-schemes"],
    default="",
    help="further fsspec URL schemes that the receipts' place may have",
)
_OLDER_THAN = click.Option(
    ["--older-than"],
    required=True,
    metavar="DURATION",
    help="remove what was stored for runs that ended longer ago, as in 90d",
)


def _list(**values: Any) -> None:
    from backlog_clearer.cli.receipts import list_receipts

    list_receipts(*talk_of(values))


def _show(**values: Any) -> None:
    from backlog_clearer.cli.receipts import show_receipt

    show_receipt(*talk_of(values))


def _prune(**values: Any) -> None:
    from backlog_clearer.cli.receipts import prune_receipts

    prune_receipts(*talk_of(values))


def receipts_group() -> NearestNames:
    """The commands about kept receipts."""
    group = NearestNames(
        "receipts",
        help="List, show and remove receipts of a directory or bucket.",
        short_help="List, show and remove receipts.",
    )
    group.add_command(
        click.Command(
            "list",
            params=[_DIRECTORY, _SCHEMES, OUTPUT],
            callback=_list,
            short_help="List receipts, oldest first.",
            help="List the receipts in DIRECTORY (default receipts; a path or a URL), oldest first, with what"
            " can still be undone as far as they show. No broker is asked.",
        )
    )
    group.add_command(
        click.Command(
            "show",
            params=[click.Argument(["receipt"], type=click.Path()), _SCHEMES, OUTPUT],
            callback=_show,
            short_help="Show what a receipt has.",
            help="Show the receipt in a file: its run, positions and result, and how to undo it.",
        )
    )
    group.add_command(
        click.Command(
            "prune",
            params=[
                _DIRECTORY,
                _OLDER_THAN,
                _SCHEMES,
                click.Option(
                    ["--dry-run"], is_flag=True, help="list what would be removed; remove nothing"
                ),
                click.Option(
                    ["--delete-snapshots"],
                    is_flag=True,
                    help="delete the Pub/Sub snapshots of these receipts first; where that fails, the receipt"
                    " is kept",
                ),
                ALLOWED,
                *FLAGS[:2],
            ],
            callback=_prune,
            short_help="Remove receipts of old runs.",
            help="Remove receipts of old runs from DIRECTORY (default receipts). What they could still undo"
            " cannot be undone afterwards. Snapshots of Pub/Sub stay until they"
            " expire, unless --delete-snapshots is given.",
        )
    )
    return group
