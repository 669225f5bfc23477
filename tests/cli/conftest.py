import sys
from pathlib import Path

# The fake server of the API tests (api_fakes.py) serves these tests too.
sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
