"""Pub/Sub's gRPC errors in this project's terms, with the missing permission named.

Permissions: https://cloud.google.com/pubsub/docs/access-control#required_permissions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.rpc import error_details_pb2  # type: ignore[import-untyped] # ships no types
from grpc_status import rpc_status

from backlog_clearer.errors import BrokerError, TransientError

_TRANSIENT = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # the server ended a stream; our own cancellations are not translated
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request, as an error message names it."""

    what: str  # "seek", "acknowledge", …
    resource: str  # full name of the resource
    permission: str  # that IAM requires
    host: str


def code_of(error: Exception) -> grpc.StatusCode | None:
    """The gRPC status code of an error of gRPC or of the client library; None: it is neither."""
    if isinstance(error, GoogleAPICallError):
        code = error.grpc_status_code
        return code if isinstance(code, grpc.StatusCode) else None
    call: object = error  # by the stubs an RpcError is not a Call; gRPC's own are both
    return call.code() if isinstance(call, grpc.Call) else None


def error_info(error: Exception) -> dict[str, str]:
    """`ErrorInfo.metadata` of an error; empty where it has none (google.rpc.ErrorInfo)."""
    call: Any = error
    if isinstance(error, GoogleAPICallError):
        call = next((item for item in error.errors if isinstance(item, grpc.Call)), None)
    if call is None or not isinstance(call, grpc.Call):
        return {}
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # details and status disagree: neither is reliable
        return {}
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return dict(info.metadata)
    return {}


def to_broker_error(error: Exception, call: Call) -> BrokerError:
    """The error in this project's terms: transient or not, with a hint what to check."""
    if isinstance(error, GoogleAuthError):
        return BrokerError(
            f"The credentials for {call.host} do not work: {_first_line(error)}. Check"
            " --credentials-file, or log in with: gcloud auth application-default login"
        )
    code = code_of(error)
    details = _details(error)
    where = f"{call.what} of {call.resource} at {call.host}"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        permission = error_info(error).get("permission", call.permission)
        return BrokerError(
            f"{where} was refused: the credentials lack the permission {permission} on"
            f" {call.resource} ({details})."
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return BrokerError(
            f"{where} was refused: the credentials are not accepted ({details}). Check"
            " --credentials-file, or log in with: gcloud auth application-default login"
        )
    name = code.name if code else type(error).__name__
    if code in _TRANSIENT:
        return TransientError(f"{where} failed for now: {name}: {details}.")
    return BrokerError(f"{where} failed: {name}: {details}.")


def unreachable(error: BrokerError, host: str) -> BrokerError:
    """For the first request: a transient failure with a hint what to check."""
    if not isinstance(error, TransientError):
        return error
    return TransientError(
        f"{host} does not answer: {error} Check the network, PUBSUB_EMULATOR_HOST and --api-endpoint."
    )


def _details(error: Exception) -> str:
    if isinstance(error, GoogleAPICallError):
        return _first_line(error.message)
    call: object = error
    if isinstance(call, grpc.Call):
        return _first_line(call.details() or "no details")
    return _first_line(error)


def _first_line(value: object) -> str:
    lines = str(value).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else "no details"
