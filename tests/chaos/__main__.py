"""`python tests/chaos`: see campaign.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

# Fleets are run by the harness of the live tests, and as urgently as benchmarks where that is asked for.
ROOT = Path(__file__).parents[2]
sys.path[1:1] = [str(ROOT / "tests" / "live"), str(ROOT / "bench")]

if __name__ == "__main__":
    sys.exit(importlib.import_module("campaign").main())
