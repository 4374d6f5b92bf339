"""`restore` on the command line: its options and its help are the receipt's system's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.model import Partition
from tests.invoking import call, clear, stored, three_partitions


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture
def receipt(broker: MemoryBroker) -> str:
    """The receipt of a run that moved partition 1 from 400, and the others from nothing."""
    broker.positions["billing", Partition("orders", 1)] = 400
    path: str = json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"]
    assert stored(broker) == [1000, 1000, 1000]
    return path


@pytest.mark.parametrize(
    "before",
    [
        ["--yes"],
        ["--group-id", "billing", "--yes"],
        ["--servers=a,b", "-y", "--partitions", "0-2"],
        ["-X", "some.setting=1", "--yes"],
        ["--yes", "--receipt-dir", "elsewhere"],
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_options_may_stand_before_and_after_the_receipt(
    broker: MemoryBroker, receipt: str, before: list[str], first: bool
) -> None:
    """The values of the receipt's system's options are not taken for the receipt, wherever they are."""
    done = call("restore", *([*before, receipt] if first else [receipt, *before]))
    assert done.exit_code == 0, done.output
    assert stored(broker) == [None, 400, None]


def test_the_help_without_a_receipt_lists_what_every_restore_takes(broker: MemoryBroker) -> None:
    """`restore --help` lists the options that do not depend on the system."""
    text = call("restore", "--help").stdout
    listed = ("--run", "--partitions", "--dry-run", "--allow-reference", "--receipt-dir", "--yes")
    assert all(name in text for name in listed)
    assert "--group-id" not in text
    assert not broker.positions


@pytest.mark.parametrize("order", [1, -1])
def test_the_help_with_a_receipt_lists_its_systems_options_too(
    broker: MemoryBroker, receipt: str, order: int
) -> None:
    """`restore RECEIPT --help` and `restore --help RECEIPT` list the connection options, and change nothing."""
    text = call("restore", *[receipt, "--help"][::order]).stdout
    assert all(name in text for name in ("--partitions", "--group-id", "--servers", "-X"))
    assert stored(broker) == [1000, 1000, 1000]
    assert "--group-id" not in call("restore", "--help").stdout


def test_the_help_is_shown_although_the_receipt_cannot_be_read(broker: MemoryBroker) -> None:
    """A receipt that does not exist does not keep the help away."""
    done = call("restore", "no-such.json", "--help")
    assert (done.exit_code, broker.positions) == (0, {})
    assert "--allow-reference" in done.stdout


@pytest.mark.parametrize("wrong", ["--tpoic", "--stop-when-empty", "--worker"])
def test_a_wrong_option_is_named(broker: MemoryBroker, receipt: str, wrong: str) -> None:
    """An option that a restore does not take is named itself, not the receipt; nothing moves."""
    for args in ([receipt, wrong, "x"], [wrong, "x", receipt]):
        done = call("restore", *args, "--yes")
        assert done.exit_code == 2
        assert f"No such option: {wrong}." in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def test_an_option_of_another_system_is_a_wrong_option(broker: MemoryBroker, receipt: str) -> None:
    """Kafka's options are known, but they are not those of this receipt."""
    done = call("restore", "--bootstrap-servers", "b:9092", receipt, "--yes")
    assert done.exit_code == 2
    assert "--bootstrap-servers" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ((), "Name a receipt, or a run with --run RUN_ID."),
        (("--yes",), "Name a receipt, or a run with --run RUN_ID."),
        (("a.json", "--run", "some-run"), "not both: got the receipt 'a.json' and the run 'some-run'"),
        (("--run",), "--run"),
        (("a.json", "b.json"), "b.json"),
    ],
)
def test_a_restore_names_one_receipt_or_one_run(
    broker: MemoryBroker, args: tuple[str, ...], hint: str
) -> None:
    """No receipt, two of them, and a receipt beside a run are wrong use that is named."""
    done = call("restore", *args)
    assert done.exit_code == 2
    assert hint in " ".join(done.stderr.split())
    assert not broker.positions
