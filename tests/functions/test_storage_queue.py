"""The storage queue on a real Azurite, judged by the storage library's plain client."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import time
from collections.abc import Iterator

import pytest
from azure.storage.queue import QueueClient

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.testing.servers.azurite import KEY, Azurite
from backlog_clearer.testing.servers.kafka_judge import unique
from backlog_clearer.testing.support import wait_until
from functions.storage_queue import StorageQueue
from tests.functions.azure_host import count, queues
from tests.functions.flaky import flaky

VISIBLE_S = 4


class Both:
    """A queue under test, and the plain clients of it and its poison queue."""

    def __init__(self, storage: Azurite) -> None:
        name = unique("slices")
        self.judge, self.poison = queues(storage, name)
        self.environ = {
            "BACKLOG_CLEARER_QUEUE": name,
            "BACKLOG_CLEARER_STORAGE": storage.connection_string,
        }
        self.queue = StorageQueue.from_environ(self.environ)

    def through(self, port: int, storage: Azurite) -> StorageQueue:
        """The queue, reached through another port."""
        other = dataclasses.replace(storage, queue_port=port)
        return StorageQueue.from_environ(
            {**self.environ, "BACKLOG_CLEARER_STORAGE": other.connection_string}
        )


@pytest.fixture
def both(storage: Azurite) -> Both:
    """A separate queue."""
    return Both(storage)


def slices(total: int) -> list[Request]:
    """The requests of a run."""
    return [Request(backlog="orders", slice=index, total=total, run_id="r-1") for index in range(total)]


def bodies(client: QueueClient) -> Iterator[dict[str, object]]:
    """Every visible message, decoded; they are hidden afterwards."""
    for message in client.receive_messages(messages_per_page=32, visibility_timeout=600):
        yield json.loads(base64.b64decode(message.content, validate=True))


def test_every_slice_is_enqueued_once(both: Both) -> None:
    """Five hundred slices become five hundred base64 messages, each with only its fields."""
    both.queue.put(slices(500))
    found = list(bodies(both.judge))
    assert sorted(str(body["slice"]) for body in found) == sorted(map(str, range(500)))
    assert found[0].keys() == {"backlog", "slice", "total", "run_id"}
    both.queue.put([])
    assert count(both.judge) == 500


def test_a_failed_put_names_the_missing_slices(both: Both, storage: Azurite) -> None:
    """Throttled slices are retried by the library; a refused one is named, and no other is missing."""
    throttled: set[bytes] = set()

    def fault(method: str, _path: str, body: bytes) -> int | None:
        text = re.search(rb"<MessageText>(.*)</MessageText>", body)
        if method != "POST" or text is None:
            return None
        if json.loads(base64.b64decode(text[1]))["slice"] == 29:
            return 403
        if len(throttled) < 3 and body not in throttled:
            throttled.add(body)
            return 503
        return None

    with flaky(storage.queue_port, fault) as port:
        queue = both.through(port, storage)
        with pytest.raises(BrokerError, match=r"HTTP 403") as caught:
            queue.put(slices(30))
        assert "slices are not on the queue" in str(caught.value)
    there = {body["slice"] for body in bodies(both.judge)}
    match = re.search(r"\(slice ([\d, ]+)\)", str(caught.value))
    assert match is not None
    missing = {int(number) for number in match[1].split(", ")}
    assert missing == set(range(30)) - there
    assert 29 in missing
    assert throttled


def test_a_message_stays_hidden_while_it_is_worked_on(both: Both) -> None:
    """Others see nothing for longer than the visibility timeout; afterwards it is delivered again."""
    both.queue.put(slices(1))
    taken = both.queue.take(VISIBLE_S)
    assert taken is not None
    assert json.loads(taken.body)["slice"] == 0
    with taken:
        end = time.monotonic() + 2 * VISIBLE_S
        while time.monotonic() < end:
            assert both.queue.take(VISIBLE_S) is None
            time.sleep(0.2)
        assert taken.held()
    wait_until(lambda: bool(both.judge.peek_messages()), "the message to be seen again")
    again = both.queue.take(VISIBLE_S)
    assert again is not None
    assert (again.dequeues, again.exhausted) == (2, False)
    again.delete()
    assert count(both.judge) == 0


def test_a_message_that_was_delivered_again_is_not_claimed(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that lost a message learns it, and its delete does not affect the new delivery."""
    both.queue.put(slices(1))
    first = both.queue.take(1)
    wait_until(lambda: bool(both.judge.peek_messages()), "the message to be seen again")
    second = both.queue.take(600)
    assert first is not None
    assert second is not None
    assert not first.held()
    with first:
        wait_until(lambda: "delivered again" in caplog.text, "a warning of the renewal")
    first.delete()
    assert "is not deleted" in caplog.text
    assert count(both.judge) == 1
    assert second.held()
    second.delete()
    assert count(both.judge) == 0


def test_a_renewal_that_fails_is_tried_again(
    both: Both, storage: Azurite, caplog: pytest.LogCaptureFixture
) -> None:
    """One refused renewal is logged, and the next keeps the message hidden."""
    refused: list[str] = []

    def fault(method: str, path: str, _body: bytes) -> int | None:
        if method == "PUT" and not refused:
            refused.append(path)
            return 403
        return None

    both.queue.put(slices(1))
    with flaky(storage.queue_port, fault) as port:
        taken = both.through(port, storage).take(VISIBLE_S)
        assert taken is not None
        with taken:
            end = time.monotonic() + 2 * VISIBLE_S
            while time.monotonic() < end:
                assert both.queue.take(VISIBLE_S) is None
                time.sleep(0.2)
    assert refused
    assert "Renewing a message" in caplog.text


@pytest.mark.parametrize("content", ["not base64, and no request", "////", ""])
def test_a_body_that_is_not_text_can_be_buried(both: Both, content: str) -> None:
    """Any body can be taken, and moved to the poison queue unchanged."""
    both.judge.send_message(content)
    taken = both.queue.take(VISIBLE_S)
    assert taken is not None
    assert taken.body == content
    taken.bury()
    assert (count(both.judge), count(both.poison)) == (0, 1)
    assert [base64.b64decode(item.content or "").decode() for item in both.poison.peek_messages()] == [
        content
    ]


def test_the_sixth_delivery_is_exhausted(both: Both) -> None:
    """A message that is taken for the sixth time has no attempts left."""
    both.queue.put(slices(1))
    seen = []
    for _ in range(6):
        taken = both.queue.take(1)
        assert taken is not None
        seen.append(taken.exhausted)
        wait_until(lambda: bool(both.judge.peek_messages()), "the message to be seen again")
    assert seen == [False] * 5 + [True]


def test_errors_contain_no_secrets(both: Both, storage: Azurite) -> None:
    """A wrong key, a silent account and a missing queue are reported without secrets."""
    wrong = storage.connection_string.replace(KEY, base64.b64encode(b"wrong key").decode())
    with pytest.raises(BrokerError, match=r"HTTP 403") as caught:
        StorageQueue.from_environ({**both.environ, "BACKLOG_CLEARER_STORAGE": wrong}).take(VISIBLE_S)
    assert "wrong" not in str(caught.value)
    signed = "QueueEndpoint=http://127.0.0.1:1/account;SharedAccessSignature=sv=2024-11-04&sig=s3cret"
    with pytest.raises(BrokerError, match="did not answer") as caught:
        StorageQueue.from_environ({**both.environ, "BACKLOG_CLEARER_STORAGE": signed}).put(slices(100))
    assert "100 of 100" in str(caught.value)
    assert "slice 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(BrokerError, match="QueueNotFound"):
        StorageQueue.from_environ({**both.environ, "BACKLOG_CLEARER_QUEUE": "missing"}).take(VISIBLE_S)


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({}, "BACKLOG_CLEARER_QUEUE is not set"),
        ({"BACKLOG_CLEARER_QUEUE": "q"}, "where is the storage queue"),
        (
            {"BACKLOG_CLEARER_QUEUE": "q", "BACKLOG_CLEARER_STORAGE": "AccountKey=s3cret"},
            "not a connection",
        ),
    ],
)
def test_missing_and_wrong_settings_are_named(environ: dict[str, str], hint: str) -> None:
    """A missing or invalid setting is wrong use that names it without its value."""
    with pytest.raises(UsageError, match=hint) as caught:
        StorageQueue.from_environ(environ)
    assert "s3cret" not in str(caught.value)
