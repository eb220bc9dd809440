"""How long a run will still take, from the jobs that have finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean


class Estimate:
    """Time left: for each rule, jobs left times their mean duration, over the jobs run at once.

    A rule of which nothing has finished counts with the mean of all rules. While such rules have
    most of the jobs left, nothing is said: the first rules of a run are its shortest.
    """

    def __init__(self) -> None:
        self.total = 0
        self._waiting: Counter[str] = Counter()
        self._running: dict[int, tuple[str, float]] = {}
        self._durations: dict[str, list[float]] = {}
        self._at_once = 1

    def plan(self, stats: Mapping[str, int]) -> None:
        """Take in the number of jobs per rule, which comes with a `total`."""
        self._waiting = Counter({rule: int(n) for rule, n in stats.items() if rule != "total"})
        self.total = sum(self._waiting.values())

    def start(self, job: int, rule: str, now: float) -> None:
        """A job has started at `now` [s]."""
        self._running[job] = (rule, now)
        self._waiting[rule] -= 1
        self._at_once = max(self._at_once, len(self._running))

    def finish(self, job: int, now: float) -> None:
        """A job has finished at `now` [s]."""
        if job in self._running:
            rule, begun = self._running.pop(job)
            self._durations.setdefault(rule, []).append(now - begun)

    def seconds(self, now: float) -> float | None:
        """Seconds left at `now`, or None while too little has finished to tell."""
        means = {rule: fmean(values) for rule, values in self._durations.items()}
        left = self._waiting + Counter(rule for rule, _ in self._running.values())
        known = sum(n for rule, n in left.items() if rule in means)
        if not means or 2 * known < left.total():
            return None
        overall = fmean(means.values())
        waiting = sum(n * means.get(rule, overall) for rule, n in self._waiting.items() if n > 0)
        running = sum(
            max(0.0, means.get(rule, overall) - (now - begun))
            for rule, begun in self._running.values()
        )
        return (waiting + running) / self._at_once

    def left(self, now: float) -> str:
        """The time left at `now` [s], in words."""
        seconds = self.seconds(now)
        if seconds is None:
            return "time left unknown yet"
        if seconds < 60:
            return "less than a minute left"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"about {hours} h {minutes:02d} min left" if hours else f"about {minutes} min left"
