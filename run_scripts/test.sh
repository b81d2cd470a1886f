#!/usr/bin/env bash
# The test suite. Makes .venv when there is none, installs requirements.txt into it, and runs every test.
#   bash run_scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source run_scripts/environment.sh
python -m pytest "$@"
