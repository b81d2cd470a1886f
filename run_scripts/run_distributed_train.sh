#!/usr/bin/env bash
# Train on several devices of one node or of many: one process a device, started by MindSpore's msrun.
#
#   bash run_scripts/run_distributed_train.sh train.yaml --device CPU --workers 2
#   bash run_scripts/run_distributed_train.sh train.yaml --strategy strategy.yaml --device Ascend
#   bash run_scripts/run_distributed_train.sh train.yaml --strategy strategy.yaml --device Ascend \
#        --nodes 16 --node-rank 3 --master ADDRESS_OF_NODE_0 [--port 8118] [--rank-table rank_table.json]
#
# --strategy S      how the run is laid over devices; it also says how many there are
# --workers N       without a strategy: N data-parallel processes
# --device D        CPU, GPU or Ascend; CPU and GPU split the batch and the optimizer's states, Ascend everything
# --nodes, --node-rank, --master, --port   many nodes: the same command on each, with its number (port: 8118)
# --rank-table F    HCCL's rank table (python -m parallel_strategy export writes one); msrun does without
# --restarts N      failures in a row without a new checkpoint before it gives up (default 3)
# --stall SECONDS   without a sign of life, after which it counts as failed (default 1800)
# --dry-run         look at everything that is needed, say what would be started, and stop
#
# The log of rank R is OUT/logs/start-NNN/worker_R.log, on several nodes OUT/logs/node_K/start-NNN/worker_R.log.
# When one process dies all are stopped, and all start again from
# the newest whole checkpoint. Ctrl-C saves a checkpoint; the same command goes on from there.
set -euo pipefail
source "$(dirname "$0")/steps.sh"
[ $# -gt 0 ] || set -- --help
[ "$1" != -h ] && [ "$1" != --help ] || usage
source run_scripts/environment.sh
cd "$called_from"
exec python -m pangu launch "$@"
