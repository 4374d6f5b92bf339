"""What each command does, from its values to its exit code.

`commands` imports this module when a command runs, because it loads rich: `--help` does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from backlog_clearer.cli.session import Session, session
from backlog_clearer.cli.talk import Talk
from backlog_clearer.cli.undo import reached
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Mode, Recorded
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.layers import build_options, read_file
from backlog_clearer.options.places import checked_place
from backlog_clearer.options.recorded import (
    allowed_references,
    not_allowed,
    recorded_options,
    references_of,
)
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import options_model
from backlog_clearer.run.job import Job, reading_nothing
from backlog_clearer.run.metering import clear_metered, status_metered
from backlog_clearer.run.notify import announce_failure, announced
from backlog_clearer.run.receipt import (
    Receipt,
    check_alike,
    load,
    load_run,
    original_positions,
    to_undo,
    unsealed,
)
from backlog_clearer.run.selection import (
    Naming,
    Selected,
    naming_of,
    reading_all_nothing,
    select,
)
from backlog_clearer.text import listed


def clear_system(talk: Talk, system: str, values: dict[str, Any]) -> NoReturn:
    """`SYSTEM`: clear the backlog of a subscription."""
    with session(talk) as opened:
        layers = _layers(values)
        naming = naming_of(system, *layers)
        if naming is not None:
            clear_selected(opened, naming)
        options, run = build_options(options_model(system), *layers)
        clear_one(opened, Job(system, options, run))


def clear_one(opened: Session, job: Job) -> NoReturn:
    """Clear one subscription, and end the command."""
    opened.check_consent(job, consumes=job.run.mode is Mode.CONSUME)
    try:
        with opened.progress(lasting=not job.run.stop_when_empty) as observe, opened.connecting(job):
            result = clear_metered(job, opened.callbacks(observe), opened.halt)
    except ClearerError as error:
        opened.posting()
        announce_failure(job, error, opened.halted)
        raise
    opened.posting()
    opened.end(announced(job, result, opened.halted), job)


def clear_selected(
    opened: Session, naming: Naming, run_id: str | None = None, *, dry_run: bool = False
) -> NoReturn:
    """Clear the subscriptions that a call names in one of the other ways."""
    selected = _selected(opened, naming, run_id, dry_run=dry_run, changes=True)
    job = selected.members[0].job
    if selected.single and job is not None:
        clear_one(opened, job)
    from backlog_clearer.cli.several import clear_all

    clear_all(opened, selected)


def look_at_selected(opened: Session, naming: Naming, every_s: float | None) -> NoReturn:
    """Show the subscriptions that a call names in one of the other ways, and end the command."""
    selected = _selected(opened, naming)
    job = selected.members[0].job
    if selected.single and job is not None:
        look_at_one(opened, job, every_s)
    if every_s is not None:
        from backlog_clearer.cli.watch import watch_several

        watch_several(opened, selected, every_s)
    from backlog_clearer.cli.several import look_at_all

    look_at_all(opened, selected)


def _selected(
    opened: Session,
    naming: Naming,
    run_id: str | None = None,
    *,
    dry_run: bool = False,
    changes: bool = False,
) -> Selected:
    """The subscriptions, after what can be checked before anything is connected."""
    probe = naming.job()
    if changes:  # names that only the broker has are to be seen before they are cleared
        consumes = probe.run.mode is Mode.CONSUME and not naming.lists
        opened.check_consent(reading_nothing(probe) if dry_run else probe, consumes=consumes)
    with opened.connecting(probe):
        selected = select(naming, run_id)
    return reading_all_nothing(selected) if dry_run else selected


def show_status(talk: Talk, system: str, values: dict[str, Any]) -> NoReturn:
    """`status SYSTEM`: show the backlog of a subscription and change nothing."""
    every_s = values.pop("watch", None)
    with session(talk) as opened:
        layers = _layers(values)
        naming = naming_of(system, *layers)
        if naming is not None:
            look_at_selected(opened, naming, every_s)
        options, run = build_options(options_model(system), *layers)
        look_at_one(opened, Job(system, options, run), every_s)


def look_at_one(opened: Session, job: Job, every_s: float | None) -> NoReturn:
    """Show one backlog, once or every so many seconds, and end the command."""
    if every_s is not None:
        from backlog_clearer.cli.watch import watch_status

        watch_status(opened, job, every_s)
    with opened.connecting(job):
        result = status_metered(job)
    opened.end(result)


def find_receipts(
    talk: Talk, path: str | None, run_id: str | None, directory: str, schemes: str
) -> list[Receipt]:
    """`restore`: the receipt in a file, or those of a run in a directory, in sequence; at least one.

    `schemes` is what `--receipt-schemes` names.
    """
    with session(talk) as opened:
        place, called = (path, "The receipt") if path is not None else (directory, "--receipt-dir")
        check_place(place, called, schemes)
        found = [load(path)] if path is not None else list(load_run(directory, run_id or "").values())
        if not found:
            opened.fail(UsageError(f"There is no receipt of a run {run_id!r} in {directory}."))
        check_alike(found)
        found = list(to_undo(found))
        options_model(found[0].system)  # before any other flag is read: they are this system's
    return found


def check_place(place: str, called: str, schemes: str) -> None:
    """Raise `UsageError` where no receipt can be at a place; `schemes` is what --receipt-schemes names."""
    try:
        checked_place(place, [name.strip() for name in schemes.split(",")])
    except ValueError as error:
        raise UsageError(f"{called}: {error}.") from None


def undo(talk: Talk, receipts: Sequence[Receipt], values: dict[str, Any]) -> NoReturn:
    """`restore`: set partitions back to what the receipts (of one run, in sequence) recorded."""
    from backlog_clearer.run.restore import restore

    with session(talk) as opened:
        allowed = allowed_references(values.pop("allow_reference", None) or ())
        system = receipts[0].system
        options, run = connectable(opened, receipts[0], allowed, *_layers(values))
        recorded = original_positions(receipts)
        if run.partitions is not None:
            recorded = _chosen(recorded, run.partitions)
        job = Job(system, options, run)
        opened.check_consent(job, consumes=False)
        notes = unsealed(receipts)
        with opened.connecting(job):
            result = restore(job, recorded, receipts[0].identity, opened.callbacks(), notes=notes)
        opened.end(result, job)


def connectable(
    opened: Session, receipt: Receipt, allowed: AbstractSet[str], *layers: dict[str, Any]
) -> tuple[SystemOptions, RunOptions]:
    """The options by which a receipt's subscription is reached, with later layers over them.

    What the receipt refers to is sent only if it is allowed, or confirmed. Raises `UsageError`.
    """
    model = options_model(receipt.system)
    kept = recorded_options(model, receipt.options)
    asked = [name for name in references_of(model, kept, *layers) if name not in allowed]
    to = reached(receipt.system, kept)
    if asked and not opened.confirm_sending(asked, to):
        raise not_allowed(asked, to)
    return build_options(model, kept, *layers)


def _chosen(recorded: Sequence[Recorded], numbers: Sequence[int]) -> tuple[Recorded, ...]:
    """The partitions that --partitions names."""
    known = {item.partition.number for item in recorded}
    missing = [number for number in numbers if number not in known]
    if missing:
        raise UsageError(
            f"--partitions names {listed(missing)}, but the receipt has {listed(sorted(known), 20)}."
        )
    wanted = set(numbers)
    return tuple(item for item in recorded if item.partition.number in wanted)


def show_run_status(
    talk: Talk, run_id: str, receipt_dir: str, schemes: str, every_s: float | None
) -> NoReturn:
    """`progress RUN_ID`: show the slices of a run."""
    with session(talk) as opened:
        check_place(receipt_dir, "--receipt-dir", schemes)
        if every_s is not None:
            from backlog_clearer.cli.watch import watch_run

            watch_run(opened, receipt_dir, run_id, every_s)
        from backlog_clearer.cli.slices import end_with_run
        from backlog_clearer.fanout.run_status import run_status

        end_with_run(opened, run_status(receipt_dir, run_id))


def _layers(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The file that --config-json names, and the flags above it."""
    flags = {name: value for name, value in values.items() if name != "config_json"}
    path = values.get("config_json")
    return [read_file(path), flags] if path else [flags]
