"""The Azure Storage queue on which slices wait, for the function app and for Container Apps jobs.

Bodies are base64 text, the default of the Functions host, and a message that was taken too often goes to
the queue NAME-poison, as the host does it itself:
https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue. Delivery is at least
once: a message may be taken again.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.storage.queue import (
    ExponentialRetry,
    QueueMessage,
    QueueServiceClient,
    StorageErrorCode,
    TextBase64EncodePolicy,
)
from typing_extensions import Self

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import Request

QUEUE = "BACKLOG_CLEARER_QUEUE"
STORAGE = "BACKLOG_CLEARER_STORAGE"
MAX_DEQUEUES = 5
"""The number of attempts at a message: `maxDequeueCount` of host.json."""

_LOG = logging.getLogger("backlog_clearer")
_AT_ONCE = 10  # the connections that the library's transport keeps; a queue takes 2,000 messages/s
_SHOWN = 10  # slices that an error names
_LOST = {StorageErrorCode.MESSAGE_NOT_FOUND, StorageErrorCode.POP_RECEIPT_MISMATCH}


class StorageQueue:
    """A queue and its poison queue; both have to exist. May be used by several threads."""

    def __init__(self, service: QueueServiceClient, name: str) -> None:
        self.name = name
        encoded: dict[str, Any] = {"message_encode_policy": TextBase64EncodePolicy()}
        self.waiting = service.get_queue_client(name, **encoded)
        self.poison = service.get_queue_client(f"{name}-poison", **encoded)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """The queue that the environment names; connects to nothing yet. Raises `UsageError`."""
        name = environ.get(QUEUE, "").strip()
        if not name:
            raise UsageError(f"{QUEUE} is not set: name the storage queue.")
        return cls(_service(environ), name)

    def put(self, requests: Sequence[Request]) -> None:
        """Enqueue them all; raises `BrokerError` naming the slices that may be missing."""
        failed = threading.Event()

        def one(request: Request) -> str | None:
            if failed.is_set():  # the library has retried already: avoid 10,000 failures
                return "not tried after that"
            body = request.model_dump_json(exclude_none=True, exclude_defaults=True)
            try:
                self.waiting.send_message(body)
            except AzureError as error:
                failed.set()
                return _reason(error)
            return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            faults = list(pool.map(one, requests))
        missing = [str(request.slice) for request, fault in zip(requests, faults, strict=True) if fault]
        if missing:
            which = ", ".join(missing[:_SHOWN]) + (", …" if missing[_SHOWN:] else "")
            raise BrokerError(
                f"{len(missing)} of {len(requests)} slices are not on the queue {self.name}"
                f" (slice {which}): {next(fault for fault in faults if fault)}."
            )

    def take(self, visibility_s: int) -> Taken | None:
        """One message, hidden from others for `visibility_s` seconds; None: there is none.

        Raises `BrokerError`.
        """
        with _translated(f"Taking a message from the queue {self.name}"):
            message = self.waiting.receive_message(visibility_timeout=visibility_s)
        return None if message is None else Taken(self, message, visibility_s)


class Taken:
    """A message that was taken; inside a `with` block, a thread keeps it hidden from others."""

    def __init__(self, queue: StorageQueue, message: QueueMessage, visibility_s: int) -> None:
        self.body = _text(message.content or "")
        self.dequeues = message.dequeue_count or 1
        self._queue = queue
        self._id = message.id
        self._receipt = message.pop_receipt  # every renewal brings another one
        self._visibility_s = visibility_s
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="message renewal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settled.set()
        self._thread.join()

    @property
    def exhausted(self) -> bool:
        """Whether no attempts are left."""
        return self.dequeues > MAX_DEQUEUES

    def held(self) -> bool:
        """Whether the message is still this process's own; if so, it is renewed.

        False: it was delivered again, or deleted. Raises `BrokerError` where that is unknown.
        """
        with self._lock, _translated(f"Renewing a message of the queue {self._queue.name}"):
            try:
                renewed = self._queue.waiting.update_message(
                    self._id, self._receipt, visibility_timeout=self._visibility_s
                )
            except HttpResponseError as error:
                if _code(error) in _LOST:
                    return False
                raise
            self._receipt = renewed.pop_receipt
            return True

    def delete(self) -> None:
        """Delete the message. A failure is only logged: another delivery does no harm."""
        self._settled.set()
        with self._lock:
            try:
                self._queue.waiting.delete_message(self._id, self._receipt)
            except AzureError as error:
                name = self._queue.name
                _LOG.warning("A message of the queue %s is not deleted: %s.", name, _reason(error))

    def release(self) -> None:
        """Show the message to others now, for its next attempt. A failure is logged: then they see it later.

        While it is hidden and no execution works on it, scaling by the length of the queue, which counts
        hidden messages, would start executions that find nothing.
        """
        self._settled.set()
        with self._lock:
            try:
                self._queue.waiting.update_message(self._id, self._receipt, visibility_timeout=0)
            except AzureError as error:
                name = self._queue.name
                _LOG.warning("A message of the queue %s stays hidden: %s.", name, _reason(error))

    def bury(self) -> None:
        """Move the message to the poison queue; raises `BrokerError`."""
        with _translated(f"Putting a message on the queue {self._queue.poison.queue_name}"):
            self._queue.poison.send_message(self.body)
        self.delete()

    def _renew(self) -> None:
        while not self._settled.wait(self._visibility_s / 3):
            try:
                if not self.held():
                    _LOG.warning("A message of the queue %s was delivered again.", self._queue.name)
                    return
            except BrokerError as error:  # the next attempt may come in time
                _LOG.warning("%s", error)


def _service(environ: Mapping[str, str]) -> QueueServiceClient:
    how: dict[str, Any] = {
        # At worst two minutes: HTTP answers of a function app are cut at 230 s.
        "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=4),
        "connection_timeout": 10,
        "read_timeout": 30,
    }
    connection, url = environ.get(STORAGE, ""), environ.get(f"{STORAGE}__queueServiceUri", "")
    if connection:
        with suppress(ValueError):
            return QueueServiceClient.from_connection_string(connection, **how)
        raise UsageError(f"{STORAGE} is not a connection string of a storage account.")
    if not url:
        raise UsageError(
            f"Neither {STORAGE} (a connection string) nor {STORAGE}__queueServiceUri is set:"
            " where is the storage queue?"
        )
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 # only where it is used

    client_id = environ.get(f"{STORAGE}__clientId") or environ.get("AZURE_CLIENT_ID")
    credential = DefaultAzureCredential(managed_identity_client_id=client_id)
    return QueueServiceClient(url, credential=credential, **how)


def _text(content: str) -> str:
    """The decoded body; the body itself where it is not base64 text."""
    try:
        return base64.b64decode(content, validate=True).decode()
    except ValueError:
        return content


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the library's errors into this project's."""
    try:
        yield
    except AzureError as error:
        raise BrokerError(f"{doing} failed: {_reason(error)}.") from None


def _code(error: AzureError) -> Any:
    return getattr(error, "error_code", None)


def _reason(error: AzureError) -> str:
    """The reason, without the library's own text: URLs in it may contain a signature."""
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        code = _code(error)
        return f"HTTP {error.status_code} {getattr(code, 'value', code) or error.reason}"
    if isinstance(error, ClientAuthenticationError):
        return "no credential of DefaultAzureCredential got a token; is AZURE_CLIENT_ID the identity's"
    return f"the storage account did not answer ({type(error).__name__})"
