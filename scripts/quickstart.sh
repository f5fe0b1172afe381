#!/usr/bin/env bash
# From nothing to a trained video model: environment, embedded data set, training, evaluation, results.
# The same command again goes on where it stopped, or shows the results at once. Arguments are training options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
exec "$VENV/bin/python" scripts/quickstart.py "$@"
