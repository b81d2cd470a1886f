#!/usr/bin/env bash
# Train on, from weights that are there, with another corpus or another configuration: a new run.
#
#   bash run_scripts/run_incremental_train.sh train.yaml --start-from runs/first --workers 2
#   bash run_scripts/run_incremental_train.sh train.yaml --start-from runs/first/checkpoints/step-00001000 --strategy s.yaml
#   bash run_scripts/run_incremental_train.sh train.yaml --start-from pangu.safetensors --device CPU --workers 1
#   bash run_scripts/run_incremental_train.sh train.yaml --start-from ckpts/checkpoint_file --strategy s.yaml
#
# --start-from W    a run, a checkpoint of any layout, a .safetensors file, or a directory of released shards, which is
#                   first put together into OUT/start.safetensors (its strategy file must lie where docs/checkpoints.md
#                   says)
# --out DIR         the new run's directory, instead of train.yaml's
# Everything else as for run_distributed_train.sh; --dry-run says what would be done.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
weights='' out='' words=()
while [ $# -gt 0 ]; do
  case $1 in
    --start-from) need_value "$@"; weights=$2; shift 2 ;;
    --out) need_value "$@"; out=$2; words+=("$1" "$2"); shift 2 ;;
    --dry-run) dry_run=yes; words+=("$1"); shift ;;
    *) words+=("$1"); shift ;;
  esac
done
[ -n "$weights" ] || die "--start-from is missing: which weights to train on (see --help)"
source run_scripts/environment.sh
cd "$called_from"
need_file "$weights"
if compgen -G "$weights/fil*_0.ckpt" > /dev/null || compgen -G "$weights/rank_0/*.ckpt" > /dev/null; then
  [ -n "$out" ] || die "--out is missing: the shards are put together in the new run's directory"
  whole=$out/start.safetensors
  step mkdir -p "$out"
  [ -e "$whole" ] || step python -m pangu convert "$weights" --to safetensors --out "$whole"
  weights=$whole
fi
[ -z "$dry_run" ] || tell "would begin with $weights"
exec python -m pangu launch "${words[@]}" --start-from "$weights"
