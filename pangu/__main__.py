"""`python -m pangu VERB ...`."""

import sys

from pangu.cli import main

sys.exit(main())
