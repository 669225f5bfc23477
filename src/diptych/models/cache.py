"""Where fetched models live on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/diptych`, by default `~/.cache/diptych`; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG base directory specification: a relative path is to be ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "diptych"
