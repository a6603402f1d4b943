"""Starts two trainings at once: in one run directory, and in two that share a cache.

In one directory one of the two must be refused in one line while the other comes to the same bits as one that was
alone. With a shared cache both must.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from studies.reliability.workplace import TRAIN, different, facts_of_run, has_traceback, left_behind, make, start, table

TIMEOUT = 300.0


def together(directory: Path, runs: tuple[str, str], *, delay: float) -> list[tuple[int | None, str]]:
    """Start two trainings, the second after some seconds: the status and the errors of each."""
    processes = []
    for number, run in enumerate(runs):
        log = directory / f"log{number}"
        arguments = (*TRAIN[:2], "--run_dir", run)
        processes.append((start(arguments, cwd=directory, log=log), log))
        if number == 0:
            time.sleep(delay)
    ended = []
    for process, log in processes:
        try:
            status = process.wait(TIMEOUT)
        except Exception:
            os.killpg(process.pid, signal.SIGKILL)
            status = None
        ended.append((status, log.read_text(errors="replace")))
    return ended


def judge_one_directory(ended: list[tuple[int | None, str]], directory: Path, reference: dict) -> str:
    """What came of two trainings in one run directory."""
    if any(has_traceback(errors) for _, errors in ended):
        return "traceback"
    statuses = sorted(-1 if status is None else status for status, _ in ended)
    if statuses not in ([0, 2], [0, 0]):
        return f"statuses {statuses}"
    if names := different(reference, facts_of_run(directory / "run")):
        return f"differs in {names}"
    return "one refused, one the same" if statuses == [0, 2] else "one after the other, the same"


def run(directory: Path, *, count: int, seed: int) -> tuple[str, bool]:
    """The campaign: a report, and whether it went well."""
    rng = random.Random(seed)
    alone = make(directory / "alone")
    ended = together(alone, ("run", "other"), delay=TIMEOUT / 10)
    reference = facts_of_run(alone / "run")
    results: Counter = Counter()
    for number in range(count):
        place = make(directory / f"one{number}")
        ended = together(place, ("run", "run"), delay=rng.choice([0.0, rng.uniform(0.0, 15.0)]))
        result = judge_one_directory(ended, place, reference)
        results[f"one directory: {result}"] += 1
        if result not in ("one refused, one the same", "one after the other, the same"):
            print(result, *(errors[-1500:] for _, errors in ended), sep="\n", flush=True)

        place = make(directory / f"two{number}")
        ended = together(place, ("run", "other"), delay=rng.choice([0.0, rng.uniform(0.0, 8.0)]))
        found = [
            different(reference, facts_of_run(place / name)) for name in ("run", "other") if (place / name).exists()
        ]
        well = [status for status, _ in ended] == [0, 0] and found == [[], []] and not left_behind(place / "cache")
        results["one cache: " + ("both the same" if well else "WRONG")] += 1
        if not well:
            print(found, left_behind(place), *(errors[-1500:] for _, errors in ended), sep="\n", flush=True)
        print(f"{number + 1} of {count}: {dict(results)}", flush=True)
    control = different(reference | {"tokenizer": ""}, facts_of_run(alone / "run"))
    good = {"one directory: one refused, one the same", "one directory: one after the other, the same",
            "one cache: both the same"}  # fmt: skip
    rows = [*results.items(), ("control: a fact changed in the reference", "found" if control else "NOT FOUND")]
    return table(f"two writers: {count} times each", rows), set(results) <= good and bool(control)
