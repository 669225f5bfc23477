import sys
from pathlib import Path

# The strategies of these tests are a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))
