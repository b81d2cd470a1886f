#!/usr/bin/env bash
# Continue the prompts of a file on several processes, each with the whole model and its share of the prompts.
#
#   bash run_scripts/run_distributed_predict.sh runs/first --file prompts.txt --workers 2 --out answers.jsonl
#   bash run_scripts/run_distributed_predict.sh runs/first --file prompts.txt --strategy strategy.yaml --out answers.jsonl
#
# CHECKPOINT        a run, a checkpoint of any layout, or a .safetensors file with --model and --tokenizer
# --file F          a prompt a line
# --out F           JSON lines, in the order of the prompts; the same as one process writes
# --workers N, or --strategy S, whose data-parallel ranks share the prompts; its other axes must be 1
# --device D        CPU, GPU or Ascend: a process a device
# --logs DIR        a log for each process (default: OUT.logs)
# --restarts N      failures in a row without a new answer before it gives up (default 3)
# --dry-run         look at everything that is needed, say what would be started, and stop
# Everything else (--max-new-tokens, --seed, ...) as for `python -m pangu generate --help`.
#
# When one process dies all are stopped, and all start again with the prompts that are left. Ctrl-C stops all; the same
# command goes on from there. OUT appears when it is whole.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
source run_scripts/environment.sh
cd "$called_from"
exec python -m pangu predict "$@"
