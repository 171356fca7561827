#!/usr/bin/env bash
# From a bare clone to runs/quickstart/report/index.html: installs, trains the quickstart study, analyses, reports.
# Run it again and it goes on where it stopped, or says that nothing is left. Arguments such as --workers 1 go to
# `bcrit run`.
set -euo pipefail
. "$(dirname "$0")/setup.sh" ""
export WANDB_SILENT=true TOKENIZERS_PARALLELISM=false
"$PY" -m launch.cli run configs/studies/quickstart.yaml "$@"
if [ runs/quickstart/report/index.html -nt runs/quickstart/table.parquet ]; then
  echo "The report is up to date: runs/quickstart/report/index.html"
else
  "$PY" -m launch.cli report runs/quickstart
fi
