import sys
from pathlib import Path

# The helpers of these tests (api_fakes.py) are a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))
