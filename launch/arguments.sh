# Sourced by the launchers: what they read from a command line, and how they show what they would run.
# shellcheck shell=bash

# One line on standard error, exit status 2: a mistake of the user's.
refuse() {
    echo "seq2seq: $*" >&2
    exit 2
}

# What --run-dir says among the arguments of `seq2seq train`; nothing if it is not there.
run_directory() {
    local argument previous="" directory=""
    for argument in "$@"; do
        case $previous in --run-dir | --run_dir) directory=$argument ;; esac
        case $argument in --run-dir=* | --run_dir=*) directory=${argument#*=} ;; esac
        previous=$argument
    done
    echo "$directory"
}

# The same, where a launcher cannot do without. $1: how the launcher is called.
demand_config_and_run_directory() {
    local usage=$1
    shift
    case ${1:-} in "" | -*) refuse "expected a CONFIG first, got '${1:-}'; call it as: $usage" ;; esac
    [ -n "$(run_directory "$@")" ] || refuse "--run-dir is missing: the place to find the run again; call it as: $usage"
}

# A command in one line that can be pasted into a shell.
show() {
    local word line="" quote="'\\''"
    for word in "$@"; do
        case $word in
        "" | *[!A-Za-z0-9_./:=,@%+-]*) line+=" '${word//\'/$quote}'" ;;
        *) line+=" $word" ;;
        esac
    done
    echo "${line# }"
}
