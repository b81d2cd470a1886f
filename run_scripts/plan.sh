#!/usr/bin/env bash
# From a model and a cluster to a strategy: what a first one costs, the best one, why, and the files to launch it with.
#
#   bash run_scripts/plan.sh strategy.yaml --out plan
#   bash run_scripts/plan.sh strategy.yaml --out plan --hosts hosts.txt --dry-run
#
# strategy.yaml names the model and the cluster (`python -m parallel_strategy init` writes one); its layout is where the
# search begins. strategy.best.yaml comes to lie beside it, because the files that it names are relative to it; DIR gets
# report.html (open it), trace.json (ui.perfetto.dev), and exported/, which can launch it.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
strategy='' out='' hosts=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) need_value "$@"; out=$(absolute "$2"); shift 2 ;;
    --hosts) need_value "$@"; hosts=(--hosts "$(absolute "$2")"); shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    --*) die "unknown argument $1 (see --help)" ;;
    *) [ -z "$strategy" ] || die "$1: one strategy is enough"; strategy=$(absolute "$1"); shift ;;
  esac
done
[ -n "$strategy" ] && [ -n "$out" ] || die "a strategy and --out are needed (see --help)"
need_file "$strategy"
source run_scripts/environment.sh
best=${strategy%.yaml}.best.yaml
step mkdir -p "$out"
step python -m parallel_strategy predict "$strategy" || [ $? -eq 3 ] # it does not fit: the search finds what does
step python -m parallel_strategy search "$strategy" --out "$best"
step python -m parallel_strategy compare "$strategy" "$best"
step python -m parallel_strategy timeline "$best" --html "$out/report.html" --trace "$out/trace.json"
step python -m parallel_strategy export "$best" --out "$out/exported" "${hosts[@]}"
