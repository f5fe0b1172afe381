# Sourced by the other scripts: makes $VENV (default .venv in the checkout) with the package and its tools, once.
# A stamp of the files that decide what is installed lets a second run start at once.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
PYTHON="${PYTHON:-python3}"

ensure_environment() {
    local stamp="$VENV/.installed" wanted
    wanted="$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/scripts/env.sh" | cksum) $ROOT"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "mvit_video needs Python 3.11 or newer; $PYTHON is $("$PYTHON" --version 2>&1 || true)." >&2
        echo "Set PYTHON to one, for example: PYTHON=python3.12 bash $0" >&2
        exit 1
    fi
    echo "Making the environment in $VENV (several minutes, about 6 GB; once)."
    "$PYTHON" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$ROOT/constraints.txt" \
        --editable "$ROOT[dev]"
    echo "$wanted" >"$stamp"
}
