"""No kernel reads or writes a byte before or behind its pools, whatever the rows' lengths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_kernels_stay_within_their_pools() -> None:
    """In a process of its own: an access beyond them ends it."""
    program = Path(__file__).with_name("beyond_pools.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "within the pools\n"), done.stderr
