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
# --logs DIR        a log for each process (default: OUT.logs)
# --dry-run         say what would be started
# Everything else (--max-new-tokens, --seed, --device, …) is for `python -m pangu generate --help`.
#
# When one process fails the others are stopped and nothing is written to OUT.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
checkpoint='' file='' out='' workers='' strategy='' logs='' words=()
while [ $# -gt 0 ]; do
  case $1 in
    --file | --out | --workers | --strategy | --logs)
      need_value "$@"
      name=${1#--}
      printf -v "$name" '%s' "$2"
      shift 2
      ;;
    --dry-run) dry_run=yes; shift ;;
    --*) words+=("$1"); shift; while [ $# -gt 0 ] && [[ $1 != --* ]]; do words+=("$1"); shift; done ;;
    *) [ -z "$checkpoint" ] || die "$1: one checkpoint is enough"; checkpoint=$1; shift ;;
  esac
done
[ -n "$checkpoint" ] && [ -n "$file" ] && [ -n "$out" ] || die "CHECKPOINT, --file and --out are needed (see --help)"
source run_scripts/environment.sh
checkpoint=$(absolute "$checkpoint") file=$(absolute "$file") out=$(absolute "$out") logs=$(absolute "${logs:-$out.logs}")
need_file "$checkpoint"
need_file "$file"
if [ -n "$strategy" ]; then
  strategy=$(absolute "$strategy")
  shares=$(python -m parallel_strategy ranks "$strategy" --json | python -c '
import json, sys
ranks = json.load(sys.stdin)["ranks"]
print(max(r["coordinate"]["dp"] for r in ranks) + 1 if len(ranks) == max(r["coordinate"]["dp"] for r in ranks) + 1 else 0)')
  [ "$shares" != 0 ] || die "$strategy: only mesh.dp may be larger than 1: every process has the whole model"
  [ -z "$workers" ] || [ "$workers" = "$shares" ] || die "$strategy: has $shares ranks, --workers says $workers"
  workers=$shares
fi
workers=${workers:-1}
[[ $workers =~ ^[1-9][0-9]*$ ]] || die "--workers $workers: must be a whole number above 0"
prompts=$(grep -c '[^[:space:]]' "$file" || true)
[ "$prompts" -gt 0 ] || die "$file: holds no prompt: write one a line"
[ "$workers" -le "$prompts" ] || workers=$prompts
workers=$(((prompts + (prompts + workers - 1) / workers - 1) / ((prompts + workers - 1) / workers))) # none without a prompt
echo "$prompts prompts of $file on $workers processes, $(nproc) cores; logs in $logs"
step mkdir -p "$logs"
if [ -z "$dry_run" ]; then
  rm -f "$logs"/prompts.* "$logs"/answers.*
  grep '[^[:space:]]' "$file" > "$logs/all"
  split --lines=$(((prompts + workers - 1) / workers)) --numeric-suffixes --suffix-length=4 "$logs/all" "$logs/prompts."
fi
running=()
stop_all() { for process in "${running[@]}"; do kill "$process" 2> /dev/null || true; done; }
trap stop_all EXIT
for ((rank = 0; rank < workers; rank++)); do
  number=$(printf '%04d' "$rank")
  command=(python -m pangu generate "$checkpoint" --file "$logs/prompts.$number" --json "${words[@]}")
  if [ -n "$dry_run" ]; then
    step "${command[@]}"
  else
    "${command[@]}" > "$logs/answers.$number" 2> "$logs/worker_$rank.log" &
    running+=($!)
  fi
done
[ -z "$dry_run" ] || exit 0
for ((rank = 0; rank < workers; rank++)); do
  # Whichever ends next: a failure stops the others at once.
  wait -n "${running[@]}" && continue
  code=$?
  grep -h '^error: ' "$logs"/worker_*.log >&2 || echo "error: a process ended with code $code; see $logs" >&2
  exit "$code"
done
cat "$logs"/answers.* > "$out.partial"
mv "$out.partial" "$out"
echo "wrote $out"
