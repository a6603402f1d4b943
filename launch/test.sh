#!/usr/bin/env bash
# Install into .venv, check the code, and run the tests. Arguments go to pytest: ./launch/test.sh tests/modules -k attention
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
static_checks
exec python -m pytest -n 2 --dist loadfile "$@"
