"""`python -m diptych.cli`, where the `diptych` script is not installed."""

import sys

from diptych.cli import main

sys.exit(main())
