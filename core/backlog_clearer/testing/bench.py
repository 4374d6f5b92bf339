"""What the contract suite needs of a broker: one subscription, filled and judged from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source

MESSAGES = 700  # per partition: several batches of BATCH, and not a multiple of it
BATCH = 64


class Bench(ABC):
    """One topic with one subscription on a running broker, as the test sees it from outside."""

    system: str = ""
    partitions: int = 3
    has_figures: bool = True  # the broker tells what is left
    exact_restore: bool = True  # restore brings back exactly the stored positions
    exact_limit: bool = True  # max_messages can be kept exactly
    unit_is_messages: bool = True  # backlog counts messages, one by one
    detects_live: bool = True  # consumers attached can be made and are told
    refuses_missing: bool = True  # it can be asked whether a subscription exists
    answers_empty: bool = True  # a topic that never had a message can be surveyed
    survives_skip: bool = True  # a skip that leaves messages does not end the broker's process
    lease_s: float = 0.0  # what was under way to a consumer when it ended may stay away for so long

    @abstractmethod
    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        """The adapter under test, opened on this subscription."""

    @abstractmethod
    def missing_source(self, run: RunOptions) -> Source:
        """The adapter, opened on a topic (or subscription) that does not exist."""

    @abstractmethod
    def produce(self, number: int, count: int) -> None:
        """Publish `count` messages to one partition, and wait until they are stored."""

    @abstractmethod
    def left(self) -> dict[int, int]:
        """Messages still to be delivered to the subscription, by partition number.

        Judged by the broker's figures or by a plain consumer of the broker's own library, never by
        the adapter.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether the missing topic (or subscription) has come into being."""

    @property
    @abstractmethod
    def missing_name(self) -> str:
        """The name that `missing_source` uses."""

    def attach(self) -> Any:
        """A context manager in which an ordinary consumer is attached to the subscription."""
        raise NotImplementedError

    def options(self, tmp_path: Path, **changes: Any) -> RunOptions:
        """Run options that suit a test."""
        values: dict[str, Any] = {
            "workers": 2,
            "batch_size": BATCH,
            "stop_when_empty": True,
            "max_seconds": 60,
            "quiet_seconds": 3,
            "receipt_dir": str(tmp_path / "receipts"),
        }
        return RunOptions(**{**values, **changes})

    def options_after(self, tmp_path: Path, **changes: Any) -> RunOptions:
        """The same for a run that follows one that ended early, and must find all that is left."""
        options = self.options(tmp_path, **changes)
        return options.model_copy(update={"quiet_seconds": options.quiet_seconds + self.lease_s})
