"""A worker process of Azure Functions: indexes the function app, then runs an invocation a line of stdin.

`runtime` has `azure-functions-runtime`, Azure's own worker for Python 3.13 and later, index and invoke;
it reads and makes messages of the host's protocol only by their attributes, so plain objects do.
`types` has azure-functions' own types: what a function's parameters are on every Python.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

APP = Path(__file__).resolve().parents[2] / "functions" / "azure"


class Typed(SimpleNamespace):
    """`TypedData`, or a parameter: an object of which one attribute is set."""

    def WhichOneof(self, _group: str) -> str:  # noqa: N802 # protobuf's name
        """The attribute that is set."""
        return next(name for name in vars(self) if name != "name")


class Protos:
    """The messages of the host's protocol."""

    class BindingInfo(SimpleNamespace):
        """A binding; with the protocol's numbers of directions and data types."""

        undefined, out, inout = 0, 1, 2

    class StatusResult(SimpleNamespace):
        """How a request went; with the protocol's numbers."""

        Failure, Success = 0, 1

    TypedData = Typed

    def __getattr__(self, _name: str) -> type[SimpleNamespace]:
        return SimpleNamespace


def input_of(call: dict[str, Any]) -> Typed:
    """The trigger's data, as the host sends it."""
    if call["trigger"] == "httpTrigger":
        http = SimpleNamespace(
            method=call["method"], url=call["url"], headers={}, query={}, params=call["params"],
            body=Typed(bytes=base64.b64decode(call["body"])),
        )  # fmt: skip
        return Typed(http=http)
    if call["trigger"] == "timerTrigger":
        return Typed(json=json.dumps({"ScheduleStatus": call["status"], "IsPastDue": call["past_due"]}))
    return Typed(bytes=base64.b64decode(call["body"]))


def runtime() -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """The app's functions, and how to invoke one, by Azure's worker runtime."""
    worker = importlib.import_module("azure_functions_runtime")

    def ask(kind: str, **fields: Any) -> Any:
        request = SimpleNamespace(
            request=SimpleNamespace(**{kind: SimpleNamespace(**fields)}),
            properties={"host": "127.0.0.1", "protos": Protos()},
        )
        return asyncio.run(getattr(worker, kind)(request))

    started = ask("worker_init_request", capabilities={}, function_app_directory=str(APP))
    if started.result.status != Protos.StatusResult.Success:
        raise RuntimeError(started.result.exception.message)
    indexed = ask("functions_metadata_request").function_metadata_results
    ids = {item.name: item.function_id for item in indexed}
    functions = [
        {
            "name": item.name,
            "bindings": [json.loads(text) for text in item.raw_bindings],
            "retries": item.retry_options.max_retry_count if item.retry_options else None,
        }
        for item in indexed
    ]
    numbers = itertools.count()

    def invoke(call: dict[str, Any]) -> dict[str, Any]:
        metadata = {"Id": Typed(string="1"), "DequeueCount": Typed(json="1")}
        answer = ask(
            "invocation_request",
            invocation_id=str(next(numbers)),
            function_id=ids[call["function"]],
            input_data=[Typed(name=call["parameter"], data=input_of(call))],
            trigger_metadata=metadata if call["trigger"] == "queueTrigger" else {},
            trace_context=SimpleNamespace(trace_parent="", trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
        )
        if answer.result.status != Protos.StatusResult.Success:
            return {"error": answer.result.exception.message}
        if answer.return_value is None:
            return {}
        http = answer.return_value.http
        body = getattr(http.body, http.body.WhichOneof("data"))
        text = body.decode() if isinstance(body, bytes) else body
        return {"status": int(http.status_code), "body": text, "headers": dict(http.headers)}

    return functions, invoke


def types() -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """The app's functions, and how to invoke one, by azure-functions' own types."""
    app = importlib.import_module("function_app").app
    func = importlib.import_module("azure.functions")
    found = {item.get_function_name(): item for item in app.get_functions()}
    functions = [
        {
            "name": name,
            "bindings": [json.loads(text) for text in item.get_raw_bindings()],
            "retries": (item.get_settings_dict("retry_policy") or {}).get("max_retry_count"),
        }
        for name, item in found.items()
    ]

    def invoke(call: dict[str, Any]) -> dict[str, Any]:
        body = base64.b64decode(call.get("body", ""))
        if call["trigger"] == "httpTrigger":
            value = func.HttpRequest(
                call["method"], call["url"], route_params=call["params"], body=body
            )
        elif call["trigger"] == "timerTrigger":
            value = importlib.import_module("azure.functions.timer").TimerRequest(
                schedule_status=call["status"], past_due=call["past_due"]
            )
        else:
            value = importlib.import_module("azure.functions.queue").QueueMessage(
                id="1", body=body, dequeue_count=1
            )
        try:
            answer = found[call["function"]].get_user_function()(value)
        except Exception as error:  # noqa: BLE001 # the worker reports it to the host
            return {"error": f"{type(error).__name__}: {error}"}
        if answer is None:
            return {}
        return {
            "status": answer.status_code,
            "body": answer.get_body().decode(),
            "headers": {"content-type": answer.mimetype},
        }

    return functions, invoke


def main() -> None:
    """Answer lines of JSON on stdin by lines of JSON on stdout: first the functions, then invocations."""
    out, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, str(APP))

    def report(value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    functions, invoke = runtime() if sys.argv[1] == "runtime" else types()
    report(functions)
    bindings = {item["name"]: item["bindings"][0] for item in functions}
    for line in sys.stdin:
        call = json.loads(line)
        binding = bindings[call["function"]]
        report(invoke({**call, "trigger": binding["type"], "parameter": binding["name"]}))


if __name__ == "__main__":
    main()
