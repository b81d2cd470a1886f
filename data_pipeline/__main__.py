"""`python -m data_pipeline VERB ...`."""

import sys

from data_pipeline.cli import main

sys.exit(main())
