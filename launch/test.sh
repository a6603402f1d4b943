#!/usr/bin/env bash
# Install into .venv, check the code without running it, and run the tests. CI calls this.
#   ./launch/test.sh             everything, and of the tests marked deep those that a change can reach
#   ./launch/test.sh --quick     for every change: without the tests that take long
#   ./launch/test.sh --deep      before a release: really everything
# Other arguments go to pytest, and the code is not checked first: ./launch/test.sh tests/modules -k attention
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

# Rules and layout by ruff, types by pyright; pyproject.toml has the settings of both.
static_checks() {
    ruff check .
    ruff format --check .
    pyright
}

prepare_environment test
export JAX_PLATFORMS=cpu
case "$#:${1:-}" in
0: | 1:--quick | 1:--deep) static_checks ;;
esac
exec python -m pytest -n 2 --dist worksteal "$@"
