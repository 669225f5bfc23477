"""The tools of this folder find each other by bare names, as when they are run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parent
ROOT = TOOLS.parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """`tool("episode")` is tests/chaos/episode.py; such common names last as long as the test."""
    for folder in (ROOT / "bench", ROOT / "tests" / "live", TOOLS):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        if path.parent == TOOLS and not path.name.startswith(("test_", "conftest")):
            del sys.modules[name]
