# Sourced where machines can be taken away: SIGTERM asks training to save, and RUN/preempted says that it has.
# shellcheck shell=bash

# Run a command; when SIGTERM comes, call a function with the command's process id, and go on waiting for it.
# The exit status is the command's own. $1: the function, then the command.
run_and_on_sigterm() {
    local handle=$1 command interrupted=yes status=0
    shift
    "$@" &
    command=$!
    # A shell that waits handles the signal at once, but its wait ends with it: then it waits again.
    trap 'interrupted=yes; "$handle" "$command" || true' TERM
    while [ -n "$interrupted" ]; do
        interrupted=""
        status=0
        wait "$command" || status=$?
    done
    trap - TERM
    return "$status"
}
