"""kafka-python's messages, without its clients.

`import kafka.protocol` first runs the package's own module, which loads a consumer, a producer and an admin
client: a tenth of a second, of a run that may take half a second. So this module is imported before any of
the library's, and has what the others need of it.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_NAME = "kafka"
_loading = threading.RLock()


class _Deferred(ModuleType):
    """A package whose own module runs when something asks for a name in it that is not there."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or not isinstance(spec, ModuleSpec) or spec.loader is None:
            raise AttributeError(name)
        with _loading:
            if self.__class__ is _Deferred:
                self.__class__ = ModuleType  # type: ignore[assignment]
                spec.loader.exec_module(self)
        return getattr(self, name)


def _defer_clients() -> None:
    """Let `from kafka import …` load the clients only when it asks for one; its parts are importable now."""
    if _NAME in sys.modules or (spec := find_spec(_NAME)) is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[_NAME] = module


_defer_clients()

import kafka.errors  # noqa: E402 only now
from kafka.protocol.api_message import ApiMessage  # noqa: E402
from kafka.protocol.consumer import (  # noqa: E402
    FetchRequest,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
)
from kafka.protocol.consumer.group import (  # noqa: E402
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from kafka.protocol.metadata import (  # noqa: E402
    ApiVersionsRequest,
    ApiVersionsResponse,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    MetadataRequest,
    MetadataResponse,
)
from kafka.protocol.sasl import (  # noqa: E402
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)


class ListGroupsRequest(ApiMessage):  # type: ignore[misc] # the library has no types
    """As `kafka.protocol.admin.groups` has it, without the sixty messages of `kafka.protocol.admin`.

    A message is its schema, which the library finds by the name of the class.
    """


class ListGroupsResponse(ApiMessage):  # type: ignore[misc]
    """See `ListGroupsRequest`."""


__all__ = [
    "ApiVersionsRequest",
    "ApiVersionsResponse",
    "FetchRequest",
    "FindCoordinatorRequest",
    "FindCoordinatorResponse",
    "ListGroupsRequest",
    "ListGroupsResponse",
    "ListOffsetsRequest",
    "ListOffsetsResponse",
    "MetadataRequest",
    "MetadataResponse",
    "OffsetCommitRequest",
    "OffsetCommitResponse",
    "OffsetDeleteRequest",
    "OffsetDeleteResponse",
    "OffsetFetchRequest",
    "OffsetFetchResponse",
    "OffsetForLeaderEpochRequest",
    "OffsetForLeaderEpochResponse",
    "SaslAuthenticateRequest",
    "SaslAuthenticateResponse",
    "SaslHandshakeRequest",
    "SaslHandshakeResponse",
    "kafka",
]
