#!/usr/bin/env bash
# Install into .venv and run the tests. Arguments go to pytest: ./launch/test.sh tests/modules -k attention
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment test
export JAX_PLATFORMS=cpu
exec python -m pytest -n 2 --dist loadfile "$@"
