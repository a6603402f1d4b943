# Sourced by the other scripts: makes .venv with this project in it, and leaves it active.
# Takes the extra to install ("" or "test") as its argument.
# shellcheck shell=bash

find_python() {
    for python in "${PYTHON:-}" python3.12 python3.11 python3; do
        if [ -n "$python" ] && "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "seq2seq: no Python 3.11 or newer found; install one, or name it with PYTHON=/path/to/python." >&2
    return 1
}

# The extra of jax that drives this machine's accelerator; none for a CPU. ACCELERATOR says it where it cannot be seen.
accelerator() {
    if [ -n "${ACCELERATOR:-}" ]; then
        echo "$ACCELERATOR"
    elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        if nvidia-smi | grep -q 'CUDA Version: 12'; then echo cuda12; else echo cuda13; fi
    elif compgen -G '/dev/accel[0-9]*' >/dev/null; then
        echo tpu
    elif compgen -G '/dev/vfio/[0-9]*' >/dev/null && [ -n "${TPU_NAME:-${TPU_ACCELERATOR_TYPE:-}}" ]; then
        echo tpu
    fi
}

prepare_environment() {
    local extra=$1 python stamp wanted
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || exit 1
        "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
    stamp=.venv/installed${extra:+-$extra}
    wanted=$(cat requirements.txt pyproject.toml | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing (a minute or two) ..." >&2
        # The versions that are tested; those in pyproject.toml are ranges.
        pip install --quiet --disable-pip-version-check -r requirements.txt -e ".${extra:+[$extra]}"
        local chip jax
        chip=$(accelerator)
        if [ -n "$chip" ]; then
            jax=$(python -c 'from importlib.metadata import version; print(version("jax"))')
            pip install --quiet --disable-pip-version-check "jax[$chip]==$jax"
        fi
        echo "$wanted" >"$stamp"
    fi
}
