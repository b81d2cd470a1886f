#!/usr/bin/env bash
# Compile a strategy's training step with MindSpore's own parallel compiler, for Ascend, on a machine that has none, and
# compare what it inserts with what the emulator counted.
#
#   bash run_scripts/compile_check.sh strategy.yaml
#   bash run_scripts/compile_check.sh strategy.yaml --rank 0 --rank 1024 --logs compiled
#
# --rank R      may be given several times; default: the first rank of every pipeline stage
# --logs DIR    rank_R.log of each (default: compile_check)
# --dry-run     say what would be compiled
#
# The first rank that does not compile, or that differs from the emulator, ends it with exit code 1.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
strategy='' logs=compile_check ranks=()
while [ $# -gt 0 ]; do
  case $1 in
    --rank) need_value "$@"; ranks+=("$2"); shift 2 ;;
    --logs) need_value "$@"; logs=$2; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    --*) die "unknown argument $1 (see --help)" ;;
    *) [ -z "$strategy" ] || die "$1: one strategy is enough"; strategy=$(absolute "$1"); shift ;;
  esac
done
[ -n "$strategy" ] || die "a strategy is needed (see --help)"
need_file "$strategy"
logs=$(absolute "$logs")
source run_scripts/environment.sh
if [ ${#ranks[@]} -eq 0 ]; then
  mapfile -t ranks < <(python -m parallel_strategy ranks "$strategy" --json | python -c '
import json, sys
first = {}
for place in json.load(sys.stdin)["ranks"]:
    first.setdefault(place["coordinate"].get("pp", 0), place["rank"])
print(*first.values(), sep="\n")')
  [ ${#ranks[@]} -gt 0 ] || exit 2 # what is wrong with the strategy has been said
fi
step mkdir -p "$logs"
for rank in "${ranks[@]}"; do
  command=(python -m parallel_strategy compile "$strategy" --rank "$rank" --diff)
  if [ -n "$dry_run" ]; then
    step "${command[@]}"
  else
    echo "rank $rank: $logs/rank_$rank.log"
    "${command[@]}" > "$logs/rank_$rank.log" 2>&1 || { tail -n 20 "$logs/rank_$rank.log" >&2; exit 1; }
  fi
done
