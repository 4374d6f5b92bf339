"""Write the committed JSON Schemas from the models: `python -m tools.schemas`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from backlog_clearer.fanout.configuration import Config, Request
from backlog_clearer.fanout.dispatch import Dispatch
from backlog_clearer.fanout.run_status import RunStatus
from backlog_clearer.run.kept import KeptReceipts
from backlog_clearer.run.listing import ListResult
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.several import SeveralResult
from backlog_clearer.run.watch import WatchedBacklog

FOLDER = Path(__file__).parent.parent / "docs" / "schema"

MODELS: dict[str, type[BaseModel]] = {
    "result": RunResult,
    "receipt": Receipt,
    "config": Config,
    "request": Request,
    "dispatch": Dispatch,
    "run": RunStatus,
    "receipts": KeptReceipts,
    "list": ListResult,
    "several": SeveralResult,
    "watch": WatchedBacklog,
}


def text(model: type[BaseModel]) -> str:
    """A model's schema as it is committed."""
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write all of them."""
    for name, model in MODELS.items():
        (FOLDER / f"{name}.schema.json").write_text(text(model), encoding="utf-8")


if __name__ == "__main__":
    main()
