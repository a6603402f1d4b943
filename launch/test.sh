#!/usr/bin/env bash
# Install into .venv, check the code without running it, and run the tests. CI calls this.
#   ./launch/test.sh                     everything, and of the deep tests those that a change can reach
#   ./launch/test.sh --quick             for every change: without the tests that take long
#   ./launch/test.sh --deep              before a release: really everything
#   ./launch/test.sh tests/modules -k attention    other arguments go to pytest, and then nothing else is checked
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment test
export JAX_PLATFORMS=cpu
case "$#:${1:-}" in
0: | 1:--quick | 1:--deep) static_checks ;;
esac
exec python -m pytest -n 2 --dist worksteal "$@"
