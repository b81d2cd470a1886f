"""`python -m parallel_strategy VERB ...`."""

import sys

from parallel_strategy.cli import main

sys.exit(main())
