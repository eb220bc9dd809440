"""The time left that a run shows."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Workflow
from hypothesis import given
from hypothesis import strategies as st
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_cloakbench import LogHandler, _words
from snakemake_logger_plugin_cloakbench.estimate import Estimate


def planned(**jobs: int) -> Estimate:
    estimate = Estimate()
    estimate.plan({**jobs, "total": sum(jobs.values())})
    return estimate


@pytest.mark.parametrize(
    ("rule", "labels", "line"),
    [
        ("protect_quick", {"identity": "anna", "protection": "noise"}, "protect      anna noise"),
        ("class_images", {}, "class_images of nobody in particular, for prior preservation"),
        ("all", None, "all"),
    ],
)
def test_a_job_is_told_in_words(rule, labels, line):
    assert _words(SimpleNamespace(rule_name=rule, wildcards=labels)) == line


def test_rules_of_which_nothing_has_finished_are_named_and_not_guessed():
    estimate = planned(data=2, train=3, tables=1, all=1)
    estimate.start(1, "data", now=0)
    assert estimate.left(now=5) == "time left, unknown for data, train, tables"

    estimate.finish(1, now=300)
    assert estimate.left(now=301) == "less than 1 min to 12 min left, unknown for train, tables"


def test_there_is_a_range_while_tables_and_report_of_which_there_is_one_each_wait():
    estimate = planned(train=3, tables=1, report=1, all=1)
    for job, seconds in enumerate((300, 400)):
        estimate.start(job, "train", now=0)
        estimate.finish(job, now=seconds)
        estimate._at_once = 1
    assert estimate.left(now=400) == "3 min to 9 min left, unknown for tables, report"

    estimate.start(2, "train", now=400)
    estimate.finish(2, now=750)
    assert estimate.left(now=750) == "time left, unknown for tables, report"


def test_what_jobs_took_before_counts_until_one_of_their_rule_has_finished():
    estimate = planned(train=2, sample=1)
    estimate.expect({"train": [300, 300]})
    assert estimate.left(now=0) == "about 10 min left, unknown for sample"

    estimate.start(1, "train", now=0)
    estimate.finish(1, now=60)
    assert estimate.seconds(now=60)[0] == pytest.approx(60)


def test_jobs_left_take_as_long_as_those_of_their_rule_did():
    estimate = planned(train=3, sample=4)
    for job, (rule, seconds) in enumerate([("train", 90), ("train", 110), ("sample", 10)]):
        estimate.start(job, rule, now=0)
        estimate.finish(job, now=seconds)

    assert estimate.seconds(now=110)[0] == pytest.approx(1 * 100 + 3 * 10)


def test_jobs_at_once_share_the_time_left():
    estimate = planned(train=4)
    estimate.start(1, "train", now=0)
    estimate.start(2, "train", now=0)
    estimate.finish(1, now=60)
    estimate.finish(2, now=60)
    assert estimate.seconds(now=60) == (2 * 60 / 2, 0)


def test_jobs_that_failed_run_no_more_and_tell_nothing():
    estimate, failed = planned(train=3), planned(train=3)
    for each in (estimate, failed):
        each.start(1, "train", now=0)
        each.finish(1, now=60)
        each.start(2, "train", now=60)
    estimate.finish(2, now=120)
    failed.fail(2)
    for each in (estimate, failed):
        each.start(3, "train", now=120)
        assert each.seconds(now=130)[0] == 50  # one at a time, and one that took a minute


def test_a_runs_failures_reach_the_estimate(monkeypatch: pytest.MonkeyPatch):
    settings = SimpleNamespace(dryrun=False, quiet=None, show_failed_logs=False)
    handler = LogHandler(settings, settings=None)
    told: list[int] = []
    monkeypatch.setattr(handler._estimate, "fail", told.append)
    monkeypatch.setattr(handler, "_pass_on", lambda record: None)

    handler.emit(SimpleNamespace(event=LogEvent.JOB_ERROR, jobid=7, levelno=logging.ERROR))

    assert told == [7]


def test_a_running_job_counts_with_what_is_left_of_it():
    estimate = planned(train=2)
    estimate.start(1, "train", now=0)
    estimate.finish(1, now=60)
    estimate.start(2, "train", now=60)
    assert estimate.seconds(now=100)[0] == pytest.approx(20)
    assert estimate.seconds(now=500)[0] == 0


@given(st.lists(st.floats(1, 1000), min_size=8, max_size=8), st.integers(1, 12))
def test_the_range_is_as_wide_as_jobs_differ(durations, left):
    """By simulation: nineteen of twenty sums of as many jobs, drawn from a normal distribution of
    the same mean and deviation, with a mean that is known from eight jobs.
    """
    estimate = planned(train=8 + left)
    for job, duration in enumerate(durations):
        estimate.start(job, "train", now=0)
        estimate.finish(job, now=duration)
    estimate._at_once = 1

    time, deviation = estimate.seconds(now=2000)

    rng = np.random.default_rng(0)
    spread = np.std(durations, ddof=1)
    means = rng.normal(np.mean(durations), spread / 8**0.5, size=(20_000, 1))
    sums = rng.normal(means, spread, size=(20_000, left)).sum(axis=1)
    assert time == pytest.approx(sums.mean(), rel=0.05, abs=3 * spread)
    assert deviation == pytest.approx(sums.std(), rel=0.03, abs=1e-6)


@pytest.mark.parametrize(
    ("finished", "words"),
    [
        ((30, 30), "less than 1 min left"),
        ((300, 300), "about 5 min left"),
        ((7500, 7500), "about 2 h 05 min left"),
        ((300, 400), "3 min to 9 min left"),
    ],
)
def test_the_time_left_is_said_in_words(finished, words):
    estimate = planned(train=3)
    for job, seconds in enumerate(finished):
        estimate.start(job, "train", now=0)
        estimate.finish(job, now=seconds)
        estimate._at_once = 1
    assert estimate.left(now=max(finished)) == words


def test_a_dry_run_is_a_line_per_job_and_its_command_where_asked(workflow: Workflow):
    run = workflow.snakemake("--dry-run", experiment="another")
    asked = workflow.snakemake("--dry-run", "-p", experiment="another")

    line = r"^tables +of all cells +\(missing output files\)$"
    assert re.search(line, run.stderr, re.MULTILINE)
    assert "cloakbench tables" not in run.stderr
    assert "cloakbench tables" in asked.stderr
