"""How long a run will still take, from the jobs that have finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from statistics import fmean, variance


class Estimate:
    """Time left: for each rule, jobs left times their mean duration, over the jobs run at once.

    Rules of which nothing has finished, now or before, are named beside it, not guessed: the first
    rules of a run are its shortest. The range is two standard deviations to both sides.
    """

    def __init__(self) -> None:
        self.total = 0
        self._waiting: Counter[str] = Counter()
        self._running: dict[int, tuple[str, float]] = {}
        self._durations: dict[str, list[float]] = {}
        self._before: Mapping[str, list[float]] = {}
        self._at_once = 1

    def plan(self, stats: Mapping[str, int]) -> None:
        """Take in the number of jobs per rule, which comes with a `total`."""
        self._waiting = Counter({rule: int(n) for rule, n in stats.items() if rule != "total"})
        self.total = sum(self._waiting.values())

    def expect(self, durations: Mapping[str, list[float]]) -> None:
        """Take in what jobs of rules took before [s]: it counts until one of the rule finishes."""
        self._before = durations

    @property
    def _known(self) -> dict[str, list[float]]:
        return {**self._before, **self._durations}

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

    def fail(self, job: int) -> None:
        """A job has failed, and says nothing of how long others take."""
        self._running.pop(job, None)

    def seconds(self, now: float) -> tuple[float, float]:
        """The time left at `now` [s] of rules of which a job has finished, and its deviation."""
        time = total = 0.0
        for rule, durations in self._known.items():
            mean, spread = fmean(durations), _variance(durations)
            waiting = max(0, self._waiting[rule])
            running = [now - begun for name, begun in self._running.values() if name == rule]
            time += waiting * mean + sum(max(0.0, mean - age) for age in running)
            count = waiting + len(running)
            total += spread * (count + count**2 / len(durations))  # of jobs, and of their mean
        return time / self._at_once, sqrt(total) / self._at_once

    def untimed(self) -> list[str]:
        """Rules with jobs left, of which none has finished; but for `all`, which does nothing."""
        left = self._waiting + Counter(rule for rule, _ in self._running.values())
        return [rule for rule, jobs in left.items() if jobs and rule not in {*self._known, "all"}]

    def left(self, now: float) -> str:
        """The time left at `now` [s], in words, and how sure that is."""
        untimed, (time, deviation) = ", ".join(self.untimed()), self.seconds(now)
        known = f"{_range(time, deviation)} left"
        if not untimed:
            return known
        return f"{known if time >= 1 else 'time left'}, unknown for {untimed}"


def _variance(durations: list[float]) -> float:
    """Of one job's duration; a single job says nothing of it, so half of it is taken for it."""
    return variance(durations) if len(durations) > 1 else (durations[0] / 2) ** 2


def _range(time: float, deviation: float) -> str:
    """Two deviations to both sides of a time [s], in words."""
    low, high = _words(max(0.0, time - 2 * deviation)), _words(time + 2 * deviation)
    if low == high:
        return f"about {low}" if time >= 60 else low
    return f"{low} to {high}"


def _words(seconds: float) -> str:
    if seconds < 60:
        return "less than 1 min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
