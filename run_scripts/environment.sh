# Sourced by the other scripts: a virtual environment in .venv that holds requirements.txt, made or completed when needed.
python_command=${PYTHON:-python3.11}
if [ ! -x .venv/bin/python ]; then
  command -v "$python_command" >/dev/null || {
    echo "error: $python_command not found; install Python 3.11 or set PYTHON=/path/to/python3.11" >&2
    exit 2
  }
  "$python_command" -m venv .venv
fi
if ! cmp -s requirements.txt .venv/installed-requirements.txt; then
  echo "installing requirements.txt into .venv (about 1 GB, once)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt .venv/installed-requirements.txt
fi
export PATH="$PWD/.venv/bin:$PATH"
