import sys
from pathlib import Path

# The helpers of these tests (`*_fakes.py`) are plain modules beside them.
sys.path.insert(0, str(Path(__file__).parent))
