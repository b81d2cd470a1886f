# shellcheck shell=bash
# Sourced by the scripts that take --dry-run: where things are, mistakes in one line, and steps that are told before they
# run.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$called_from/$1" ;; esac; } # what is typed is relative to where it is typed
die() { echo "error: $*" >&2; exit 2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0; }
need_value() { [ "$#" -ge 2 ] || die "$1 needs a value (see --help)"; }
need_file() { [ -e "$1" ] || die "$1: no such file or directory"; }

called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the packages are found wherever the script is called from
dry_run=${dry_run:-}

# Say a command, and run it unless this is a dry run.
step() {
  printf '%s' "${dry_run:+would run: }"
  printf '%q ' "$@"
  printf '\n'
  [ -n "$dry_run" ] || "$@"
}
