"""Damages every file of a run and of its cache, one at a time, and uses the run: what happens is counted.

A damage may do nothing (what comes out is the same), be said (a line tells of it, whether what comes out is the same or
other, such as an older checkpoint's), or be refused in one line. It must not change what comes out without a word
(silent), nor end in a traceback, a crash or a hang.
"""

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from studies.reliability.workplace import (
    SOURCES,
    TRAIN,
    Outcome,
    Server,
    different,
    exact_record,
    facts_of_run,
    has_traceback,
    is_one_line,
    make,
    table,
)

CONTINUED = (*TRAIN, "--training.steps", "15")
COMMANDS = ("generate", "evaluate", "train")
SAID = re.compile(r"damaged|edited|lacks|Falling back|cannot be read|missing")
GOOD = ("the same", "said, the same", "said, other", "refused")
BAD = ("silent", "traceback", "crash or hang")


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def change_a_character(data: bytes, rng: random.Random) -> bytes:
    """One byte is another printable one."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.choice([c for c in range(33, 127) if c != data[place]])]) + data[place + 1 :]


def zero_a_block(data: bytes, rng: random.Random) -> bytes:
    """Up to 512 bytes are 0, as a disk leaves them that lost a sector."""
    place = rng.randrange(len(data))
    block = data[place : place + 512]
    return data[:place] + bytes(len(block)) + data[place + len(block) :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Everything from some byte on is gone."""
    return data[: rng.randrange(len(data))]


def cut_the_last_byte(data: bytes, rng: random.Random) -> bytes:
    """The last byte is gone."""
    return data[:-1]


def empty(data: bytes, rng: random.Random) -> bytes:
    """Nothing is left."""
    return b""


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "flip a bit": flip_a_bit,
    "flip another bit": flip_a_bit,
    "change a character": change_a_character,
    "zero a block": zero_a_block,
    "cut": cut,
    "cut the last byte": cut_the_last_byte,
    "empty": empty,
    "gone": None,
}
"""By name; None removes the file."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One damage, and the command that met it."""

    file: str
    damage: str
    command: str
    result: str
    outcome: Outcome


class Reference:
    """A run that was trained undisturbed, and what the commands give on it."""

    def __init__(self, directory: Path, server: Server):
        """Train it in a new directory."""
        self.whole = make(directory / "whole")
        self._trial = directory / "trial"
        self.server = server
        trained = server.call(*TRAIN, cwd=self.whole)
        if trained.status != 0:
            raise RuntimeError(f"the reference could not be trained: {trained.errors}")
        self.expected = {command: self._use(command)[1] for command in COMMANDS}

    def files(self) -> list[str]:
        """Every file of the run and of the cache."""
        paths = [path for part in ("run", "cache") for path in (self.whole / part).rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.whole)) for path in paths)

    def use(self, command: str, change: Callable[[Path], None]) -> tuple[str, Outcome]:
        """What a command makes of a copy that was changed: one of GOOD or BAD, and what it left."""
        outcome, found = self._use(command, change)
        return classify(outcome, found, self.expected[command]), outcome

    def _use(self, command: str, change: Callable[[Path], None] = lambda path: None) -> tuple[Outcome, Any]:
        shutil.rmtree(self._trial, ignore_errors=True)
        shutil.copytree(self.whole, self._trial)
        change(self._trial)
        out = self._trial / "out.json"
        if command == "train":
            outcome = self.server.call(*CONTINUED, cwd=self._trial)
            return outcome, _facts(self._trial / "run") if outcome.status == 0 else None
        if command == "generate":
            outcome = self.server.call("generate", "run", "--json", out, cwd=self._trial, stdin=SOURCES)
            return outcome, (outcome.output, out.read_text()) if outcome.status == 0 else None
        outcome = self.server.call("evaluate", "run", "--json", out, cwd=self._trial)
        return outcome, json.loads(out.read_text()) if outcome.status == 0 else None


def _facts(run: Path) -> dict[str, Any]:
    """Of a continued run: its arrays, and the records that it holds, in their order."""
    facts = facts_of_run(run)
    facts["records"] = [exact_record(record) for record in facts["records"]]
    return facts


def classify(outcome: Outcome, found: Any, expected: Any) -> str:
    """What a damage came to: one of GOOD or BAD.

    Args:
        found: what came out; None = nothing.
        expected: what comes out of an undamaged run.
    """
    if outcome.status is None:
        return "crash or hang"
    if has_traceback(outcome.errors):
        return "traceback"
    if outcome.status != 0:
        return "refused" if is_one_line(outcome) else "traceback"
    said = SAID.search(outcome.errors) is not None
    if isinstance(found, dict):
        same = not different(found, expected)
    else:
        same = found == expected
    if said:
        return "said, the same" if same else "said, other"
    return "the same" if same else "silent"


def damage_file(path: Path, damage: str, rng: random.Random) -> None:
    """Damage a file in place."""
    if DAMAGES[damage] is None:
        path.unlink()
        return
    data = path.read_bytes()
    path.write_bytes(DAMAGES[damage](data, rng) if data else b"?")


def commands_that_read(file: str) -> tuple[str, ...]:
    """The commands that a file may matter to."""
    if file.startswith("cache"):
        return ("evaluate", "train")
    if re.match(r"run/(metrics|plots|samples|tensorboard)", file):
        return ("train",)
    return COMMANDS


def trials(reference: Reference, *, seed: int, count: int | None, only: str = "") -> Iterator[Trial]:
    """Every damage to every file, met by every command that may read it, in random order.

    Args:
        count: how many of them; None = all.
        only: what the name of a file must contain.
    """
    rng = random.Random(seed)
    planned = [
        (file, damage, command)
        for file in reference.files()
        if only in file
        for damage in DAMAGES
        for command in commands_that_read(file)
    ]
    rng.shuffle(planned)
    for file, damage, command in planned[:count]:
        place_seed = rng.random()

        def change(trial: Path, file=file, damage=damage, place_seed=place_seed) -> None:
            damage_file(trial / file, damage, random.Random(place_seed))

        result, outcome = reference.use(command, change)
        yield Trial(file, damage, command, result, outcome)


def controls(reference: Reference) -> dict[str, str]:
    """Differences that are planted where nobody can say anything: each must come out as "silent"."""

    def other_run(trial: Path) -> None:
        shutil.rmtree(trial / "run")
        outcome = reference.server.call(*TRAIN, "--training.seed", "1", cwd=trial)
        if outcome.status != 0:
            raise RuntimeError(outcome.errors)

    def other_config(trial: Path) -> None:
        config = trial / "small.py"
        config.write_text(config.read_text().replace("learning_rate=1e-2", "learning_rate=1.001e-2"))
        shutil.rmtree(trial / "run")

    return {
        "another run's parameters, generate": reference.use("generate", other_run)[0],
        "another run's parameters, evaluate": reference.use("evaluate", other_run)[0],
        "a learning rate that is a thousandth higher, train": reference.use("train", other_config)[0],
        "nothing, generate": reference.use("generate", lambda trial: None)[0],
        "nothing, evaluate": reference.use("evaluate", lambda trial: None)[0],
        "nothing, train": reference.use("train", lambda trial: None)[0],
    }


def kind_of(file: str) -> str:
    """What a table calls a file."""
    file = re.sub(r"[0-9a-f]{32}", "KEY", file)
    file = re.sub(r"run/checkpoints/\d{8}/.*", "checkpoints", file)
    file = re.sub(r"-\d{5}-of-\d{5}|-(train|validation|test)\b", "", file)
    file = re.sub(r"events\.out.*", "events", re.sub(r"step=\d+", "step=N", file))
    return file.removeprefix("run/")


def run(directory: Path, *, seed: int, count: int | None, only: str) -> tuple[str, bool]:
    """The campaign: a report, and whether it went well."""
    with Server() as server:
        reference = Reference(directory, server)
        planted = controls(reference)
        found: list[Trial] = []
        for trial in trials(reference, seed=seed, count=count, only=only):
            found.append(trial)
            if trial.result in BAD:
                print(f"{trial.result}: {trial.damage}, {trial.file}, {trial.command}\n{trial.outcome.errors[-3000:]}")
            if len(found) % 20 == 0:
                print(f"{len(found)} trials: {dict(Counter(each.result for each in found))}", flush=True)
    counts = Counter(each.result for each in found)
    rows = [(result, counts[result]) for result in (*GOOD, *BAD)]
    rows += [(f"control: {name}", result) for name, result in planted.items()]
    by_kind: dict[str, Counter] = {}
    for each in found:
        by_kind.setdefault(kind_of(each.file), Counter())[each.result] += 1
    rows += [(kind, dict(sorted(results.items()))) for kind, results in sorted(by_kind.items())]
    silent = {name for name, result in planted.items() if result == "silent"}
    well = silent == {name for name in planted if not name.startswith("nothing")}
    well &= all(result == "the same" for name, result in planted.items() if name.startswith("nothing"))
    return table(f"damage: {len(found)} trials", rows), well and not any(counts[result] for result in BAD)
