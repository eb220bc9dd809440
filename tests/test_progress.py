"""The time left that a run shows."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from conftest import Workflow

from snakemake_logger_plugin_cloakbench import _words
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


def test_nothing_is_promised_before_a_job_has_finished():
    estimate = planned(sample=3)
    estimate.start(1, "sample", now=0)
    assert estimate.left(now=5) == "time left unknown yet"


def test_nothing_is_promised_while_only_short_rules_have_finished():
    estimate = planned(data=2, train=3)
    estimate.start(1, "data", now=0)
    estimate.finish(1, now=0.3)
    assert estimate.seconds(now=1) is None


def test_jobs_left_take_as_long_as_those_of_their_rule_did():
    estimate = planned(train=2, sample=3)
    estimate.start(1, "train", now=0)
    estimate.finish(1, now=100)
    estimate.start(2, "sample", now=100)
    estimate.finish(2, now=110)
    assert estimate.seconds(now=110) == pytest.approx(1 * 100 + 2 * 10)


def test_jobs_at_once_share_the_time_left():
    estimate = planned(train=4)
    estimate.start(1, "train", now=0)
    estimate.start(2, "train", now=0)
    estimate.finish(1, now=60)
    estimate.finish(2, now=60)
    assert estimate.seconds(now=60) == pytest.approx(2 * 60 / 2)


def test_a_running_job_counts_with_what_is_left_of_it():
    estimate = planned(train=2)
    estimate.start(1, "train", now=0)
    estimate.finish(1, now=60)
    estimate.start(2, "train", now=60)
    assert estimate.seconds(now=100) == pytest.approx(20)
    assert estimate.seconds(now=500) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "less than a minute left"), (300, "about 5 min left"), (7500, "about 2 h 05 min left")],
)
def test_the_time_left_is_said_in_words(seconds, words):
    estimate = planned(train=2)
    estimate.start(1, "train", now=0)
    estimate.finish(1, now=seconds)
    assert estimate.left(now=seconds) == words


def test_a_dry_run_is_a_line_per_job_and_its_command_where_asked(workflow: Workflow):
    run = workflow.snakemake("--dry-run", experiment="another")
    asked = workflow.snakemake("--dry-run", "-p", experiment="another")

    assert re.search(r"^tables +\(Missing output files: .*summary", run.stderr, re.MULTILINE)
    assert "cloakbench tables" not in run.stderr
    assert "cloakbench tables" in asked.stderr
