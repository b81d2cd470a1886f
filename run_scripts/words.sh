# shellcheck shell=bash
# Sourced by the other scripts: what they say, in the language of LC_ALL, LC_MESSAGES or LANG. The Chinese stands in the
# catalogue of the packages (pangu/foundation/locale). Where no Python is there to read it, the English stays.
scripts_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Say one text. A text that the catalogue lacks stays as it is.
tell() {
  local candidate
  case "${LC_ALL-} ${LC_MESSAGES-} ${LANG-} ${LANGUAGE-}" in
    *zh*)
      for candidate in "$scripts_folder/../.venv/bin/python" ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
        PYTHONPATH=$scripts_folder/.. "$candidate" -m pangu.foundation.translation "$1" 2> /dev/null && return
      done ;;
  esac
  printf '%s\n' "$1"
}
die() { tell "error: $*" >&2; exit 2; }
# The head of the script that was called is its help.
usage() { tell "$(sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0")"; exit 0; }
need_value() { [ "$#" -ge 2 ] || die "$1 needs a value (see --help)"; }
need_file() { [ -e "$1" ] || die "$1: no such file or directory"; }
