"""What each command does, from its values to its exit code.

`commands` imports this module when a command runs, because it loads rich: `--help` does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from backlog_clearer.cli.session import Session, session
from backlog_clearer.cli.talk import Talk
from backlog_clearer.cli.undo import reached
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import Request, load_config
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.model import Mode, Recorded
from backlog_clearer.options.base import Options, SystemOptions, build
from backlog_clearer.options.layers import build_options, read_file
from backlog_clearer.options.places import checked_place
from backlog_clearer.options.recorded import (
    allowed_references,
    not_allowed,
    recorded_options,
    references_of,
)
from backlog_clearer.options.run import RunOptions, Slice
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
from backlog_clearer.run.restore import restore
from backlog_clearer.run.selection import (
    Naming,
    Selected,
    naming_of,
    reading_all_nothing,
    select,
)
from backlog_clearer.text import listed


class _SliceGiven(Options):
    """`--slice INDEX/TOTAL`."""

    slice: Slice


def clear_system(talk: Talk, system: str, values: dict[str, Any]) -> NoReturn:
    """`SYSTEM`: clear the backlog of a subscription."""
    with session(talk) as opened:
        layers = _layers(values)
        naming = naming_of(system, *layers)
        if naming is not None:
            _clear_named(opened, naming)
        options, run = build_options(options_model(system), *layers)
        _clear(opened, Job(system, options, run))


def clear_named(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`run NAME`: clear a backlog that the configuration names."""
    with session(talk) as opened:
        config, request = load_config(), _request(values)
        dry_run = bool(values.get("dry_run"))
        naming = config.naming(request)
        if naming is not None:
            _clear_named(opened, naming, request.run_id, dry_run=dry_run)
        job = config.job(request)
        _clear(opened, reading_nothing(job) if dry_run else job)


def show_named_status(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`status NAME`: show a backlog that the configuration names, and change nothing."""
    every_s = values.pop("watch", None)
    with session(talk) as opened:
        config, request = load_config(), _request(values)
        naming = config.naming(request)
        if naming is not None:
            _look_named(opened, naming, every_s)
        _look(opened, config.job(request), every_s)


def _request(values: Mapping[str, Any]) -> Request:
    given = {key: value for key, value in values.items() if value is not None and key != "dry_run"}
    if "slice" in given and "total" not in given:
        part = build(_SliceGiven, {"slice": given["slice"]}).slice
        given.update(slice=part.index, total=part.total)
    return build(Request, given)


def _clear(opened: Session, job: Job) -> NoReturn:
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


def _clear_named(
    opened: Session, naming: Naming, run_id: str | None = None, *, dry_run: bool = False
) -> NoReturn:
    """Clear the subscriptions that a call names in one of the other ways."""
    selected = _selected(opened, naming, run_id, dry_run=dry_run, changes=True)
    job = selected.members[0].job
    if selected.single and job is not None:
        _clear(opened, job)
    from backlog_clearer.cli.several import clear_all

    clear_all(opened, selected)


def _look_named(opened: Session, naming: Naming, every_s: float | None) -> NoReturn:
    selected = _selected(opened, naming)
    job = selected.members[0].job
    if selected.single and job is not None:
        _look(opened, job, every_s)
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
            _look_named(opened, naming, every_s)
        options, run = build_options(options_model(system), *layers)
        _look(opened, Job(system, options, run), every_s)


def _look(opened: Session, job: Job, every_s: float | None) -> NoReturn:
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
        opened.end(run_status(receipt_dir, run_id))


def _layers(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The file that --config-json names, and the flags above it."""
    flags = {name: value for name, value in values.items() if name != "config_json"}
    path = values.get("config_json")
    return [read_file(path), flags] if path else [flags]
