#!/usr/bin/env bash
# Train on one device. The same command goes on after an interrupt or a crash.
#
#   bash run_scripts/run_standalone_train.sh train.yaml
#   bash run_scripts/run_standalone_train.sh train.yaml --device Ascend --strategy one-device.yaml
#   bash run_scripts/run_standalone_train.sh train.yaml --dry-run
#
# train.yaml: `python -m pangu init` writes one. --strategy: a strategy of one device (micro-batches, recomputation).
# Everything else is for `python -m pangu launch --help`, which checks, starts, logs and restarts.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
source run_scripts/environment.sh
cd "$called_from"
strategy=
for word in "$@"; do case $word in --strategy*) strategy=yes ;; --workers*) die "--workers: this script is for one" ;; esac; done
[ -n "$strategy" ] || set -- "$@" --workers 1
exec python -m pangu launch "$@"
