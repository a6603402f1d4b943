"""Where the time of a run goes: what trains, and what is lost, by cause."""

import contextlib
import time
from collections.abc import Iterator

CAUSES = ("training", "starting", "compiling", "input", "validation", "saving", "restarts")
"""What a run spends its time on; all but training is lost.

`restarts` is what passes between the last checkpoint before a stop and the start of the process that continues from it:
steps that are done again, and the wait for machines.
"""


class Ledger:
    """Seconds of a run's life by cause. What a continued run had spent before is carried over by its checkpoint."""

    def __init__(self):
        self._begun = time.time()
        self._seconds = dict.fromkeys(CAUSES, 0.0)
        self._cause, self._since = "starting", time.perf_counter()

    def resume(self, seconds: dict[str, float], *, saved_at: float) -> None:
        """Carry over what was spent before.

        Args:
            seconds: what `read` gave when the checkpoint was saved.
            saved_at: the time of that, seconds since the epoch.
        """
        for cause, spent in seconds.items():
            self._seconds[cause] += spent
        self._seconds["restarts"] += max(0.0, self._begun - saved_at)

    def start_training(self) -> None:
        """From now on time goes to training, where nothing else is said."""
        self._enter("training")

    @contextlib.contextmanager
    def spending_on(self, cause: str) -> Iterator[None]:
        """Within, time goes to this cause."""
        before = self._cause
        self._enter(cause)
        try:
            yield
        finally:
            self._enter(before)

    def move(self, seconds: float, *, to: str) -> None:
        """Count seconds that have gone to the cause of now for another one."""
        self._seconds[self._cause] -= seconds
        self._seconds[to] += seconds

    def read(self) -> dict[str, float]:
        """Seconds spent until now, by cause."""
        self._enter(self._cause)
        return dict(self._seconds)

    def _enter(self, cause: str) -> None:
        now = time.perf_counter()
        self._seconds[self._cause] += now - self._since
        self._cause, self._since = cause, now


def goodput(seconds: dict[str, float]) -> float:
    """The share of the time that went to training."""
    total = sum(seconds.values())
    return seconds["training"] / total if total else 0.0
