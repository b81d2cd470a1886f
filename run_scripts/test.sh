#!/usr/bin/env bash
# The test suite. Makes .venv when there is none, installs requirements.txt and the test tools into it, and runs every
# test, two files at a time: more would take turns on two cores and slow down what waits for them.
#   bash run_scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
extra='test'
source run_scripts/environment.sh
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
