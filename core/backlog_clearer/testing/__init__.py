"""What tests of an adapter need: the contract suite and its `Bench`; also processes and ports.

`from backlog_clearer.testing import Bench, Contract` needs pytest, and makes pytest show what the suite's
assertions compared.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backlog_clearer.testing.bench import Bench
    from backlog_clearer.testing.contract import Contract

__all__ = ["Bench", "Contract"]

_MODULES = {"Bench": "bench", "Contract": "contract"}


def __getattr__(name: str) -> object:
    """Import the suite when it is asked for: test servers are used without pytest, too."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # noqa: PLC0415 # see above

    pytest.register_assert_rewrite(__name__)
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
