"""Kills a training with SIGKILL at random times, again and again, and compares what it ends as with an undisturbed one.

The times are drawn evenly from the start of the process to shortly after its usual end, so that imports, the
preparation of the data, compilation, training, saving, evaluation and the exit are all met. Each run has a cache of its
own.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from studies.reliability.workplace import (
    TRAIN,
    different,
    facts_of_run,
    has_traceback,
    left_behind,
    make,
    start,
    table,
)

PHASES = {
    "imports": None,
    "preparing the data": b"writing ",
    "tokenizer, encoding, compiling": b"run directory:",
    "training": b"training examples",
    "after the last step": b"test: ",
    "finished": b"use it",
}
"""What a process was at, by what it had written last; in order."""


def phase(log: bytes) -> str:
    """What the process that wrote this was doing when it ended."""
    reached = "imports"
    for name, sign in PHASES.items():
        if sign is not None and sign in log:
            reached = name
    return reached


def train(directory: Path, *, kill_after: float | None) -> tuple[int, bytes, float]:
    """Start or continue the training; kill it after some seconds unless it has ended.

    Returns:
        Its status (negative = killed), what it wrote, and how long it took.
    """
    log = directory / "log"
    log.write_bytes(b"")
    started = time.monotonic()
    process = start(TRAIN, cwd=directory, log=log)
    try:
        process.wait(kill_after)
    except Exception:
        # The whole session, as a scheduler does that ends a job.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, log.read_bytes(), time.monotonic() - started


def run(directory: Path, *, count: int, seed: int) -> tuple[str, bool]:
    """The campaign: a report, and whether it went well."""
    rng = random.Random(seed)
    whole = make(directory / "whole")
    status, log, usual = train(whole, kill_after=None)
    if status != 0:
        raise RuntimeError(f"the reference could not be trained: {log.decode()}")
    reference = facts_of_run(whole / "run")
    kills, runs, phases, wrong, tracebacks, left = 0, 0, Counter(), [], 0, []
    while kills < count:
        runs += 1
        victim = make(directory / f"victim{runs}")
        status, again = None, rng.random() < 0.5
        while True:
            limit = rng.uniform(0.0, 1.1 * usual) if kills < count else None
            status, log, seconds = train(victim, kill_after=limit)
            tracebacks += has_traceback(log.decode(errors="replace"))
            if status < 0:
                kills += 1
                phases[phase(log)] += 1
                print(f"{kills} kills, after {seconds:.1f} s, {phase(log)}", flush=True)
                continue
            usual = 0.5 * usual + 0.5 * seconds
            if status != 0:
                wrong.append(f"run {runs} ended with status {status}: {log.decode(errors='replace')[-2000:]}")
                break
            if not again:
                break
            # Once more from the end: a finished run is started, and may be killed, too.
            again = False
        if status == 0 and (names := different(reference, facts_of_run(victim / "run"))):
            wrong.append(f"run {runs} differs in {names}")
        left += left_behind(victim)
        print(f"{kills} kills, {runs} runs, {len(wrong)} wrong, {tracebacks} tracebacks: {dict(phases)}", flush=True)
        shutil.rmtree(victim)
    planted = controls(whole)
    rows = [
        ("runs that were killed and continued to their end", runs),
        *((f"killed during {name}", phases[name]) for name in PHASES),
        ("runs that differ from the undisturbed one", len(wrong)),
        ("tracebacks", tracebacks),
        ("left behind at the end", dict(Counter(left))),
        *((f"control: {name}", "found" if names else "NOT FOUND") for name, names in planted.items()),
        *(("wrong", each) for each in wrong),
    ]
    return table(f"kills: {kills}", rows), not wrong and not tracebacks and all(planted.values())


def controls(whole: Path) -> dict[str, list[str]]:
    """Differences that are planted in a finished run -> the facts in which each is found."""
    reference = facts_of_run(whole / "run")
    copy = whole.parent / "control"

    def planted(change: Callable[[Path], None]) -> list[str]:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        change(copy / "run")
        found = different(reference, facts_of_run(copy / "run"))
        shutil.rmtree(copy)
        return found

    def double_a_record(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join([*lines, lines[-1]]))

    def lose_the_newest_checkpoint(run: Path) -> None:
        shutil.rmtree(max((run / "checkpoints").glob("0*")))

    def take_an_older_checkpoint(run: Path) -> None:
        older, newest = sorted((run / "checkpoints").glob("0*"))[-2:]
        shutil.rmtree(newest)
        shutil.copytree(older, newest)

    return {
        "a record twice": planted(double_a_record),
        "the last checkpoint lost": planted(lose_the_newest_checkpoint),
        "older arrays under the last step": planted(take_an_older_checkpoint),
    }
