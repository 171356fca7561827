# Sourced by the two commands: makes .venv with the pinned packages, or does nothing if it is already as pinned.
# usage: . launch/setup.sh EXTRA     EXTRA may be empty; leaves $PY, the environment's python

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PY=$PWD/.venv/bin/python
extra=$1
stamp=.venv/installed${extra:+-$extra}
pins=$(cat pyproject.toml launch/constraints.txt launch/setup.sh | sha256sum | cut -c1-16)

if [ "$(cat "$stamp" 2>/dev/null)" != "$pins" ]; then
  echo "Installing the pinned packages into .venv (a few minutes, once) ..."
  command -v python3 >/dev/null || { echo "error: python3 is not on the PATH; install Python 3.11 or later" >&2; exit 1; }
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed" >&2; exit 1; }
  "$PY" -m pip --version >/dev/null 2>&1 || python3 -m venv .venv || { echo "error: python3 -m venv failed; install python3-venv" >&2; exit 1; }
  "$PY" -m pip install -q --disable-pip-version-check -c launch/constraints.txt torch || exit 1
  "$PY" -m pip install -q --disable-pip-version-check -c launch/constraints.txt -e ".${extra:+[$extra]}" || exit 1
  # mup asks for torchvision, whose only builds here are for CUDA and break transformers beside a CPU build of torch.
  "$PY" -m pip install -q --disable-pip-version-check --no-deps -c launch/constraints.txt mup || exit 1
  "$PY" -c 'import torch, deepspeed, transformers, datasets, wandb, mup' >/dev/null || exit 1
  echo "$pins" >"$stamp"
fi
