#!/usr/bin/env bash
# Runs a recipe on a Spark cluster (docs/engines.md says what the cluster must have):
#
#   run_scripts/submit_spark.sh [--dry-run] yarn       RECIPE OUT [options for spark-submit]
#   run_scripts/submit_spark.sh [--dry-run] kubernetes RECIPE OUT [options for spark-submit]
#
# RECIPE and OUT lie on a file system that every node has at the same path. The environment says the rest:
#
#   yarn        HADOOP_CONF_DIR  the client configuration of the cluster
#               ENVIRONMENT      a packed Python environment that has this project (venv-pack or conda-pack, .tar.gz)
#   kubernetes  API_SERVER       https://HOST:PORT of the cluster
#               IMAGE            a Spark image whose Python has this project
#               CLAIM            a ReadWriteMany volume claim with RECIPE, OUT and the corpus
#               MOUNT            where it is mounted (/corpus)
#               NAMESPACE        of the pods (default), SERVICE_ACCOUNT that may start pods (spark)
#   both        EXECUTORS, CORES, EXECUTOR_MEMORY, DRIVER_MEMORY (16, 4, 12g, 12g)
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/words.sh"
fail() { tell "submit_spark.sh: $*" >&2; exit 2; }

dry_run=
if [[ ${1-} == --dry-run ]]; then dry_run=1; shift; fi
[[ $# -ge 3 ]] || fail "usage: submit_spark.sh [--dry-run] yarn|kubernetes RECIPE OUT [options for spark-submit]"
cluster=$1 recipe=$2 out=$3
shift 3
main=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/data_pipeline/__main__.py

[[ $cluster == yarn || $cluster == kubernetes ]] || fail "'$cluster': the cluster is yarn or kubernetes"
[[ $recipe == /* && $out == /* ]] || fail "RECIPE and OUT must be absolute paths, the same on every node"
command -v spark-submit > /dev/null || fail "spark-submit is not on the PATH; it comes with Spark 3.5 or 4"

# an executor's Python processes live beside its JVM: most of its memory is for them
options=(
  --name "data_pipeline $(basename "$recipe")"
  --num-executors "${EXECUTORS:-16}"
  --executor-cores "${CORES:-4}"
  --executor-memory 2g
  --driver-memory "${DRIVER_MEMORY:-12g}"
  --conf "spark.executor.memoryOverhead=${EXECUTOR_MEMORY:-12g}"
  --conf spark.speculation=false
  --conf spark.task.maxFailures=4
)
if [[ $cluster == yarn ]]; then
  [[ -f $recipe ]] || fail "$recipe: no such file"
  [[ -d ${HADOOP_CONF_DIR-} ]] || fail "HADOOP_CONF_DIR='${HADOOP_CONF_DIR-}': must name the cluster's configuration"
  [[ -f ${ENVIRONMENT-} ]] || fail "ENVIRONMENT='${ENVIRONMENT-}': must name a packed environment (venv-pack -o FILE)"
  options+=(
    --master yarn
    --deploy-mode cluster
    --archives "$ENVIRONMENT#environment"
    --conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python
    --conf spark.executorEnv.PYSPARK_PYTHON=./environment/bin/python
    --conf spark.yarn.maxAppAttempts=2
  )
else
  for name in API_SERVER IMAGE CLAIM; do [[ -n ${!name-} ]] || fail "$name must be set; the head of this file says to what"; done
  for side in driver executor; do
    volume=spark.kubernetes.$side.volumes.persistentVolumeClaim.corpus
    options+=(--conf "$volume.options.claimName=$CLAIM" --conf "$volume.mount.path=${MOUNT:-/corpus}")
  done
  options+=(
    --master "k8s://$API_SERVER"
    --deploy-mode cluster
    --conf "spark.kubernetes.container.image=$IMAGE"
    --conf "spark.kubernetes.namespace=${NAMESPACE:-default}"
    --conf "spark.kubernetes.authenticate.driver.serviceAccountName=${SERVICE_ACCOUNT:-spark}"
  )
  main=local://${PROJECT:-/opt/pangu}/data_pipeline/__main__.py
fi

command=(spark-submit "${options[@]}" "$@" "$main" run "$recipe" --out "$out" --engine spark)
if [[ $dry_run ]]; then
  echo "${command[@]@Q}" | sed "s/'\([A-Za-z0-9_.,:/=#@-]*\)'/\1/g"
else
  exec "${command[@]}"
fi
