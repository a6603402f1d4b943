#!/usr/bin/env bash
# What tpu_vm.sh does on each worker of a TPU; not to be called by hand.
#
#   launch/tpu_worker.sh install SHARE | start CONFIG --run-dir DIRECTORY [--part.field value ...] | watch | stop
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/arguments.sh
. launch/environment.sh

shared=/mnt/shared
log=train.log
process_file=train.pid

running() {
    [ -f "$process_file" ] && kill -0 "$(cat "$process_file")" 2>/dev/null
}

install() {
    if ! mountpoint --quiet "$shared"; then
        sudo apt-get update --quiet
        sudo apt-get install --quiet --yes nfs-common
        sudo mkdir -p "$shared"
        sudo mount -t nfs "$1" "$shared"
    fi
    # The images' own Python is older than 3.11.
    if ! find_python >/dev/null 2>&1; then
        python3 -m pip install --quiet --user uv
        "$HOME/.local/bin/uv" python install 3.12
        PYTHON=$("$HOME/.local/bin/uv" python find 3.12)
        export PYTHON
    fi
    ACCELERATOR=tpu prepare_environment ""
}

start() {
    ! running || refuse "training already runs here; launch/tpu_vm.sh stop NAME ends it."
    # shellcheck disable=SC1091
    . .venv/bin/activate
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$shared/compilation_cache}
    nohup setsid seq2seq train "$@" >>"$log" 2>&1 </dev/null &
    echo $! >"$process_file"
}

stop() {
    running || refuse "no training runs here."
    kill -TERM "$(cat "$process_file")"
    while running; do sleep 1; done
    tail -n 1 "$log"
}

case ${1:-} in
install) install "$2" ;;
start) start "${@:2}" ;;
watch) exec tail -n 50 -F "$log" ;;
stop) stop ;;
*) refuse "expected install, start, watch or stop, got '${1:-}'." ;;
esac
