"""Calls generate and evaluate in a loop beside a training that saves every step and keeps one checkpoint.

Whatever step a reader meets, what it finds must be what that step's checkpoint gives in a run that kept all of them.
"""

import json
import time
from collections import Counter
from pathlib import Path

from studies.reliability.workplace import SOURCES, TRAIN, Outcome, Server, has_traceback, make, start, table

EVERY_STEP = ("--training.checkpoint_every", "1", "--training.evaluate_every", "1000")


def run(directory: Path, *, steps: int) -> tuple[str, bool]:
    """The campaign: a report, and whether it went well."""
    results: Counter = Counter()
    seen: dict[int, dict] = {}
    beside = make(directory / "beside")
    train = (*TRAIN, *EVERY_STEP, "--training.steps", str(steps))
    with Server() as server:
        log = directory / "log"
        trainer = start((*train, "--training.keep_latest", "1"), cwd=beside, log=log)
        out = beside / "out.json"
        while trainer.poll() is None:
            if not list((beside / "run" / "checkpoints").glob("0*")):
                time.sleep(0.2)
                continue
            outcome = server.call(
                "evaluate", "run", "--split", "validation", "--checkpoint", "latest", "--json", out, cwd=beside
            )
            results[_result("evaluate", outcome)] += 1
            if outcome.status == 0:
                figures = json.loads(out.read_text())
                if seen.setdefault(figures["step"], figures) != figures:
                    results["evaluate: two answers for one step"] += 1
            outcome = server.call("generate", "run", cwd=beside, stdin=SOURCES)
            results[_result("generate", outcome)] += 1
            if outcome.status == 0 and len(outcome.output.splitlines()) != len(SOURCES.splitlines()):
                results["generate: lines are missing"] += 1
            print(dict(results), sorted(seen)[-1:], flush=True)
        if trainer.returncode != 0 or has_traceback(log.read_text()):
            results[f"the training: status {trainer.returncode}"] += 1
            print(log.read_text()[-3000:])

        kept = make(directory / "kept")
        outcome = server.call(*train, "--training.keep_latest", str(steps), cwd=kept)
        if outcome.status != 0:
            raise RuntimeError(outcome.errors)
        expected = {}
        for step in {*seen, *(step - 1 for step in list(seen)[-1:] if step > 1)}:
            server.call("evaluate", "run", "--split", "validation", "--checkpoint", step, "--json", out, cwd=kept)
            expected[step] = json.loads(out.read_text())
    wrong = [step for step in seen if seen[step] != expected[step]]
    last = max(seen, default=0)
    control = last > 1 and seen[last] | {"step": last - 1} != expected[last - 1]
    rows = [
        *sorted(results.items()),
        ("different steps that readers met", len(seen)),
        ("of them other than in a run that kept all", len(wrong)),
        ("control: taken for the step before", "found" if control else "NOT FOUND"),
    ]
    good = {"evaluate: answered", "generate: answered"}
    return table(f"readers beside a training of {steps} steps", rows), set(results) <= good and not wrong and control


def _result(command: str, outcome: Outcome) -> str:
    if outcome.status == 0 and "damaged" not in outcome.errors and not has_traceback(outcome.errors):
        return f"{command}: answered"
    print(outcome.errors[-2000:], flush=True)
    return f"{command}: status {outcome.status}" if outcome.status else f"{command}: a good checkpoint called damaged"
