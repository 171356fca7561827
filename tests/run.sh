#!/usr/bin/env bash
# The tests on a bare clone: installs the pinned packages, then format, lint, types and pytest. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/../launch/setup.sh" dev
export WANDB_SILENT=true TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/pyright --pythonpath "$PY"
# Two at a time, each file in one process, since its tests share what is costly, in this order: longest folder last.
exec "$PY" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
