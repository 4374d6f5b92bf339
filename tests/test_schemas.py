"""The committed schemas are the models'."""

from __future__ import annotations

import pytest

from tools import schemas


@pytest.mark.parametrize("name", sorted(schemas.MODELS))
def test_schema_is_current(name: str) -> None:
    """A change of a model shows up in its committed schema (make schemas)."""
    committed = (schemas.FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert committed == schemas.text(schemas.MODELS[name])
