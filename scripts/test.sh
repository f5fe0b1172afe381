#!/usr/bin/env bash
# All checks, the same here and in CI: lint, format, layers, types, tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
processes="$(nproc 2>/dev/null || echo 2)" # before the next line, which nproc would heed
processes=$((processes < 4 ? processes : 4)) # more gain little
# Two cores and many small tensors: threads of one process would only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# The tests start a hundred interpreters, each of which would compile the project anew.
unset PYTHONDONTWRITEBYTECODE
# Beside mypy: pytest rewrites the test files once, not in each of its processes.
"$VENV/bin/python" -m pytest --collect-only --quiet > /dev/null 2>&1 &
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/lint-imports" --no-logo --no-cache
MYPY_NUM_WORKERS="$processes" "$VENV/bin/mypy" # versions without worker processes do not heed it
wait # what cannot be collected is said by the tests themselves
# A file's tests share what they set up, so files are dealt out, not tests, in the order of tests/conftest.py.
# One more where SLURM is tested, for those tests wait most of the time.
processes=$((processes + (${MVIT_VIDEO_REQUIRE_SLURM:+1} + 0)))
"$VENV/bin/python" -m pytest --numprocesses "${TEST_PROCESSES:-$processes}" --dist loadfile --no-loadscope-reorder "$@"
