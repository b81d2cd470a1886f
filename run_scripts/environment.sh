# Sourced by the other scripts: a virtual environment in .venv that holds requirements.txt and this project, made or
# completed when needed. extra: an extra of pyproject.toml to install as well (test, serve, spark); constraints: a file of
# exact versions, without it the newest that requirements.txt allows.
source run_scripts/words.sh
python_command=${PYTHON:-}
if [ ! -x .venv/bin/python ]; then
  for candidate in $python_command python3.11 python3.12; do
    if "$candidate" --version >/dev/null 2>&1; then python_command=$candidate; break; fi
  done
  "${python_command:-python3.11}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || {
    die "${python_command:-python3.11} is no Python 3.11 or 3.12; install one, or set PYTHON=/path/to/python3.11"
  }
  "${python_command:-python3.11}" -m venv .venv
fi
wanted=.venv/wanted-requirements.txt installed=.venv/installed-requirements${extra:+-$extra}.txt
cat requirements.txt pyproject.toml > "$wanted"
if ! cmp -s "$wanted" "$installed"; then
  if [ -n "${extra:-}" ]; then
    tell "installing requirements.txt and what [$extra] adds into .venv (about 3.5 GB, once)"
  else
    tell "installing requirements.txt into .venv (about 3.5 GB, once)"
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
    ${constraints:+--constraint "$constraints"} --editable ".${extra:+[$extra]}"
  cp "$wanted" .venv/installed-requirements.txt
  [ "$installed" = .venv/installed-requirements.txt ] || cp "$wanted" "$installed"
fi
export PATH="$PWD/.venv/bin:$PATH"
