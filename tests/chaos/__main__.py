"""`python tests/chaos`: see campaign.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

# Fleets are run by the same harness as in the live tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "live"))

if __name__ == "__main__":
    sys.exit(importlib.import_module("campaign").main())
