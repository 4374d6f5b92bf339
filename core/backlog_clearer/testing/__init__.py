"""What tests of an adapter need: the contract suite and its `Bench`; also processes and ports.

`from backlog_clearer.testing import Bench, Contract` needs pytest, and makes pytest show what the suite's
assertions compared.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
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

    modules = {f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)}
    pytest.register_assert_rewrite(*(modules - sys.modules.keys()))  # it warns of those imported before
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
