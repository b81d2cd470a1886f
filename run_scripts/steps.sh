# shellcheck shell=bash
# Sourced by the scripts that take --dry-run: where things are, and steps that are told before they run.
source "$(dirname "${BASH_SOURCE[0]}")/words.sh"
absolute() { case $1 in /*) echo "$1" ;; *) echo "$called_from/$1" ;; esac; } # what is typed is relative to where it is typed

called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the packages are found wherever the script is called from
dry_run=${dry_run:-}

# Say a command, and run it unless this is a dry run.
step() {
  local command
  command=$(printf '%q ' "$@")
  if [ -n "$dry_run" ]; then tell "would run: $command"; else echo "$command"; fi
  [ -n "$dry_run" ] || "$@"
}
