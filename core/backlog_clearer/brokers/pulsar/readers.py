"""Which reader a run uses: our own, or Pulsar's client library where only that can log in."""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.brokers import Brokers
from backlog_clearer.brokers.pulsar.cluster import Cluster
from backlog_clearer.brokers.pulsar.options import PulsarOptions, PulsarReader
from backlog_clearer.errors import UsageError


def open_brokers(
    options: PulsarOptions, access: Access, run_id: str, *, answer_s: float | None = None
) -> Brokers:
    """Connections of the reader that the options choose; they are opened when they are needed.

    `answer_s`: seconds of silence after which a connection counts as dead, if not as Pulsar's clients have it.
    Raises `UsageError` where the client library is needed and not installed.
    """
    if options.chosen_reader is PulsarReader.ENTRIES:
        return Cluster(options, access, run_id, ping_s=None if answer_s is None else answer_s / 2)
    try:
        from backlog_clearer.brokers.pulsar.client import (  # noqa: PLC0415 loads the client library
            ClientCluster,
        )
    except ModuleNotFoundError as error:
        if error.name not in ("pulsar", "_pulsar"):
            raise
        raise UsageError(
            "This run needs Pulsar's client library (--reader client, or a login that only it has), which is"
            " not installed; install it with: pip install pulsar-client"
        ) from None
    return ClientCluster(options, access, run_id, answer_s=answer_s)


def reader_notes(options: PulsarOptions) -> Sequence[str]:
    """What the user must know about the reader that is used, one sentence each."""
    if options.chosen_reader is PulsarReader.ENTRIES:
        return ()
    why = (
        "as --reader asks for"
        if options.reader is PulsarReader.CLIENT
        else f"because only it has the login of --auth-plugin {options.auth_plugin}"
    )
    notes = [f"Reads with Pulsar's client library, {why}."]
    if options.admin is None:
        notes.append(
            "The client library creates a topic that does not exist, where the cluster allows it, and does"
            " not report the position."
        )
    return notes
