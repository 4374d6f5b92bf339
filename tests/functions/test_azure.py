"""The function app, indexed and invoked as Azure does it, on real Storage queues and blobs (Azurite)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient

from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from functions.storage_queue import MAX_DEQUEUES
from tests.brokers.kafka_embedded import embedded
from tests.command import cleaner
from tests.functions.azure_host import Host, hosted
from tests.functions.deployed import Deployed
from tests.paths import ROOT

__all__ = ["embedded"]

PARTITIONS, EACH = 6, 500
FUNCTIONS = {
    "dispatch": "httpTrigger",
    "runs": "httpTrigger",
    "scheduled": "timerTrigger",
    "drain": "queueTrigger",
    "poisoned": "queueTrigger",
}


@pytest.fixture(params=["types", "runtime"])
def kind(request: pytest.FixtureRequest) -> str:
    """By azure-functions' own types, and by Azure's own worker."""
    return str(request.param)


class App(Deployed):
    """A backlog, with receipts in a container of the storage account, and the app that clears it."""

    def __init__(self, judge: Judge, folder: Path, storage: Azurite, **settings: Any) -> None:
        container = unique("receipts")
        super().__init__(
            judge, folder, partitions=PARTITIONS, receipts=f"az://{container}/drains",
            **{"each": EACH, "messages_per_slice": EACH, **settings},
        )  # fmt: skip
        self.folder, self.storage, self.queue = folder, storage, unique("slices")
        blobs = BlobServiceClient.from_connection_string(storage.connection_string)
        self.blobs = blobs.create_container(container)

    @property
    def env(self) -> dict[str, str]:
        """What reaches configuration and receipts."""
        return {
            "BACKLOG_CLEARER_CONFIG": str(self.config),
            "AZURE_STORAGE_CONNECTION_STRING": self.storage.connection_string,
        }

    def hosted(
        self, kind: str, env: Mapping[str, str] | None = None, instances: int = 1
    ) -> AbstractContextManager[Host]:
        """The app, running."""
        environ = {**self.env, **(env or {})}
        return hosted(kind, self.storage, self.queue, environ, folder=self.folder, instances=instances)

    def also(self, name: str, **changes: Any) -> None:
        """Configure the same backlog under another name."""
        value = json.loads(self.config.read_text())
        entry = value["backlogs"]["orders"]
        value["backlogs"][name] = {**entry, "options": {**entry["options"], **changes}}
        self.config.write_text(json.dumps(value))


@pytest.fixture
def app(embedded: Judge, storage: Azurite, tmp_path: Path) -> App:
    """An app with a separate backlog, worth six slices."""
    return App(embedded, tmp_path, storage)


def test_the_host_finds_every_function_and_its_trigger(app: App, kind: str) -> None:
    """Five functions with their triggers, authorisation and settings; one message at a time an instance."""
    env = {"BACKLOG_CLEARER_SCHEDULED": "orders"}
    with app.hosted(kind, env) as host:
        functions = {item["name"]: item for item in host.workers[0].functions}
    first = {name: item["bindings"][0] for name, item in functions.items()}
    assert {name: item["type"] for name, item in first.items()} == FUNCTIONS
    assert (first["dispatch"]["route"], first["dispatch"]["methods"]) == ("dispatch", ["POST"])
    assert (first["runs"]["route"], first["runs"]["methods"]) == ("runs/{run_id}", ["GET"])
    assert {first[name]["authLevel"] for name in ("dispatch", "runs")} == {"FUNCTION"}
    assert first["scheduled"]["schedule"] == "%BACKLOG_CLEARER_SCHEDULE%"
    assert str(functions["scheduled"]["retries"]) == "3"
    names = [first[name]["queueName"] for name in ("drain", "poisoned")]
    assert names == ["%BACKLOG_CLEARER_QUEUE%", "%BACKLOG_CLEARER_QUEUE%-poison"]
    assert {first[name]["connection"] for name in ("drain", "poisoned")} == {"BACKLOG_CLEARER_STORAGE"}
    host_json = json.loads((ROOT / "functions/azure/host.json").read_text())
    settings = host_json["extensions"]["queues"]
    assert (settings["batchSize"], settings["newBatchThreshold"]) == (1, 0)
    assert settings["maxDequeueCount"] == MAX_DEQUEUES


def test_dispatched_messages_clear_everything(app: App, kind: str) -> None:
    """Slices enqueued by one request, three delivered twice to two instances, clear exactly everything."""
    with app.hosted(kind, instances=2) as host:
        status, made = host.http("dispatch", {"backlog": "orders"})
        assert status == 202, made
        assert (made["slices"], made["backlog"]) == (6, PARTITIONS * EACH)
        bodies = host.waiting()
        assert sorted(body["slice"] for body in bodies) == list(range(6))
        assert {tuple(sorted(body)) for body in bodies} == {("backlog", "run_id", "slice", "total")}
        assert app.left() == PARTITIONS * EACH
        for message in host.queue.peek_messages(max_messages=3):
            host.queue.send_message(message.content)
        host.settled()
        assert app.left() == 0
        assert [delivery.answer for delivery in host.deliveries] == [{}] * (6 + 3)
        account = host.account(made["run_id"])
        assert (account["verdict"], account["gone"]) == ("cleared", PARTITIONS * EACH)
        stored = [blob.name for blob in app.blobs.list_blobs()]
        assert len(stored) == 1 + 6 + 3
        assert all(name.startswith(f"drains/{made['run_id']}/") for name in stored)
    restore = ("restore", "--run", made["run_id"], "--receipt-dir", app.receipts, "--yes")
    undone = cleaner(*restore, env=app.env)
    assert undone.code == 0, undone.stderr
    assert app.left() == PARTITIONS * EACH


def test_a_repeated_dispatch_adds_nothing(app: App) -> None:
    """The same run id twice enqueues every slice once."""
    with app.hosted("types") as host:
        for _ in range(2):
            status, made = host.http("dispatch", {"backlog": "orders", "run_id": "r-1"})
            assert (status, made["slices"]) == (202, 6)
        assert len(host.waiting()) == 6


def test_a_deadline_is_continued_by_another_message(
    embedded: Judge, storage: Azurite, tmp_path: Path, kind: str
) -> None:
    """A slice that meets its deadline is enqueued again with one more requeue, until all is cleared."""
    # One worker that asks for one message at a time does not read 120,000 of them in 0.5 s.
    slow: dict[str, Any] = {"options": {"reader": "client"}, "batch_size": 1, "workers": 1}
    app = App(embedded, tmp_path, storage, each=20_000, max_slices=1, max_requeues=1000, **slow)
    with app.hosted(kind, {"BACKLOG_CLEARER_DEADLINE_S": "0.5"}) as host:
        _, made = host.http("dispatch", {"backlog": "orders"})
        host.settled()
        turns = [delivery.body.get("requeued", 0) for delivery in host.deliveries]
        assert turns == list(range(len(turns)))
        assert len(turns) > 1
        assert {json.dumps(delivery.answer) for delivery in host.deliveries} == {"{}"}
        assert app.left() == 0
        account = host.account(made["run_id"])
        assert (account["verdict"], account["gone"]) == ("cleared", PARTITIONS * 20_000)


def test_a_message_given_up_on_is_reported(app: App, kind: str) -> None:
    """Nonsense and a slice refused five times end as poison, logged for an alert; the run's slice is failed."""
    with app.hosted(kind) as host:
        _, made = host.http("dispatch", {"backlog": "orders", "run_id": "r-1"})
        host.queue.clear_messages()
        for body in ("bm90IGpzb24=", "//8="):  # "not json", and bytes that are not text
            host.queue.send_message(body)
        with app.judge.member(app.topic, app.group):
            slice_ = '{"backlog":"orders","run_id":"r-1","slice":2,"total":6}'
            assert host.http("dispatch", {"backlog": "orders"})[0] == 409
            host.workers[0].invoke("drain", body="e30=")
            host.queue.send_message(_base64(slice_))
            host.settled()
        assert len(host.deliveries) == 3 * MAX_DEQUEUES
        assert all("error" in delivery.answer for delivery in host.deliveries)
        assert app.left() == PARTITIONS * EACH
        lines = [line for line in host.log.splitlines() if "backlog-clearer: not cleared" in line]
        assert sum("a message was given up that is not a request" in line for line in lines) == 2
        assert sum(f"given up after {MAX_DEQUEUES} deliveries" in line for line in lines) == 1
        account = host.account(made["run_id"])
        assert (account["slices"][2]["state"], account["counts"]["failed"]) == ("failed", 1)
        assert "given up" in account["slices"][2]["error"]


def _base64(text: str) -> str:
    """A body as the host expects it."""
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def limited(
    embedded: Judge, storage: Azurite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[App, Host]]:
    """An app whose backlog no test of it clears."""
    app = App(embedded, tmp_path_factory.mktemp("azure"), storage, max_messages=10)
    with app.hosted("types") as host:
        yield app, host


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({"backlog": "order"}, "Did you mean 'orders'"),
        ({"backlog": "orders", "bootstrap_servers": "evil:9092"}, "unknown option"),
        ({"backlog": "orders", "options": {"topic": "other"}}, "unknown option"),
        ({"backlog": "orders", "max_messages": 11}, "allows at most 10"),
        ({"backlog": "orders", "mode": "skip"}, "may only be cleared by consume"),
        ({"backlog": "orders", "run_id": "../../x"}, "not a valid run id"),
        ({"backlog": "orders", "slice": 0, "total": 2}, "leave out slice"),
        (["orders"], "JSON object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "more than 65536 bytes"),
        (b"", "not JSON"),
    ],
)
def test_a_callers_fault_is_answered_with_400(
    limited: tuple[App, Host], body: object, hint: str
) -> None:
    """Addresses, unknown names, higher limits and nonsense: 400, a JSON error, nothing enqueued or read."""
    app, host = limited
    before = app.left()
    status, answer = host.http("dispatch", body)
    assert (status, answer["verdict"]) == (400, "not_cleared")
    assert hint in answer["error"]
    assert "evil" not in json.dumps(answer)
    assert not host.waiting()
    assert app.left() == before


def test_unknown_runs_and_a_queue_that_is_missing(limited: tuple[App, Host]) -> None:
    """An unknown run is 404; an unavailable queue is 503, and a repeat enqueues all slices."""
    app, host = limited
    for run_id in ("r-none", "..", "a b"):
        assert host.http("runs", method="GET", run_id=run_id)[0] == 404
    host.queue.delete_queue()
    status, answer = host.http("dispatch", {"backlog": "orders", "run_id": "later"})
    assert (status, answer["kind"]) == (503, "BrokerError")
    assert "6 of 6 slices" in answer["error"]
    assert "QueueNotFound" in answer["error"]
    assert "AccountKey" not in answer["error"]
    host.queue.create_queue()
    assert host.http("dispatch", {"backlog": "orders", "run_id": "later"})[0] == 202
    assert len(host.waiting()) == 6
    host.queue.clear_messages()
    assert app.left() == PARTITIONS * EACH


def test_a_limit_ends_the_slice(limited: tuple[App, Host]) -> None:
    """A slice that reached max_messages is not delivered again: it would exceed the limit."""
    app, host = limited
    before = app.left()
    host.queue.send_message(_base64('{"backlog": "orders", "run_id": "limited"}'))
    host.settled()
    assert app.left() == before - 10
    assert host.account("limited")["counts"]["not cleared"] == 1


def test_the_timer_dispatches_every_backlog_once(app: App, kind: str) -> None:
    """One backlog's failure does not stop the other, fails the function, and its retry adds nothing."""
    app.also("bills", topic="no-such-topic")
    env = {"BACKLOG_CLEARER_SCHEDULED": " bills, orders, "}
    with app.hosted(kind, env) as host:
        for _ in range(2):
            answer = host.fire("2020-02-24T20:00:00+00:00")
            assert "bills" in answer["error"]
            assert "orders" not in answer["error"]
        bodies = host.waiting()
        assert sorted(body["slice"] for body in bodies) == list(range(6))
        assert {body["run_id"] for body in bodies} == {"20200224T2000Z-orders"}
        assert "backlog-clearer: not cleared: bills" in host.log
        host.fire("2020-02-24T21:00:00.1234567Z")
        assert {body["run_id"] for body in host.waiting()} == {
            "20200224T2000Z-orders",
            "20200224T2100Z-orders",
        }
        host.settled()
        assert app.left() == 0


def test_a_timer_run_by_hand_starts_its_own_run(app: App) -> None:
    """Started before it is due, the timer starts a run of this moment, not the one of its next occurrence."""
    with app.hosted("types", {"BACKLOG_CLEARER_SCHEDULED": "orders"}) as host:
        assert host.fire("2999-01-01T00:00:00Z") == {}
        assert not [body for body in host.waiting() if body["run_id"].startswith("2999")]
        assert len(host.waiting()) == 6


@pytest.mark.parametrize("late", [False, True])
def test_a_timer_that_is_switched_on_again_starts_nothing(app: App, kind: str, *, late: bool) -> None:
    """A start that was missed while the timer was off is dispatched only where that is asked for."""
    env = {"BACKLOG_CLEARER_SCHEDULED": "orders", "BACKLOG_CLEARER_SCHEDULE_LATE": str(late).lower()}
    with app.hosted(kind, env) as host:
        assert host.fire("2020-02-24T20:00:00+00:00", past_due=True) == {}
        assert host.fire("", past_due=True) == {}, "late, and nothing states since when"
        assert len(host.waiting()) == (12 if late else 0)


def test_without_names_there_is_no_timer(app: App) -> None:
    """Without scheduled backlogs no schedule has to be set."""
    with app.hosted("types") as host:
        names = {item["name"] for item in host.workers[0].functions}
    assert names == FUNCTIONS.keys() - {"scheduled"}


@pytest.mark.parametrize(
    ("env", "hints"),
    [
        (
            {
                "BACKLOG_CLEARER_CONFIG": '{"backlogs": {"a": {"system": "kafak", "options": {}}, "b": {}}}'
            },
            ("backlog 'a'", "backlog 'b'"),
        ),
        ({"BACKLOG_CLEARER_SCHEDULED": "order"}, ("Did you mean 'orders'",)),
        ({"BACKLOG_CLEARER_DEADLINE_S": "soon"}, ("BACKLOG_CLEARER_DEADLINE_S",)),
        ({"BACKLOG_CLEARER_STORAGE": "AccountKey=s3cret"}, ("not a connection string",)),
    ],
)
def test_a_faulty_configuration_does_not_come_up(
    app: App, kind: str, env: dict[str, str], hints: tuple[str, ...]
) -> None:
    """An app whose settings have faults is not indexed, and reports them without a secret."""
    with pytest.raises(RuntimeError) as caught, app.hosted(kind, env):
        pass
    for hint in hints:
        assert hint in str(caught.value)
    assert "s3cret" not in str(caught.value)
