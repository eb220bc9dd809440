"""A logger plugin for Snakemake: one line per job, and how much time is left.

`logger: cloakbench` in a profile (or `--logger cloakbench`) turns it on. A dry-run is a line per
job with its reason (and its command with `-p`); failures and warnings look as Snakemake shows them.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_cloakbench.estimate import Estimate

_HIDDEN = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.SHELLCMD,
    LogEvent.GROUP_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.RULEGRAPH,
}
_CHATTER = ("None", "Select jobs", "Assuming unrestricted shared",
            "Conda environments: ignored")  # fmt: skip

_WITHOUT_LABELS = {
    "class_images": "of nobody in particular, for prior preservation",
    "tables": "of all cells",
    "report": "of all cells",
}


class LogHandler(LogHandlerBase):
    """Shows running jobs as lines and the whole run as a bar (plain lines off a terminal)."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._estimate = Estimate()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs, {task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, left="")

    def emit(self, record: Any) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            self._estimate.fail(record.jobid)
        if self.common_settings.dryrun:
            self._planned(event, record)
        elif record.levelno >= logging.WARNING:
            self._pass_on(record)
        elif event == LogEvent.RUN_INFO:
            self._estimate.plan(record.stats)
            self._bar.update(self._task, total=self._estimate.total, left="")
            if sys.stderr.isatty():
                self._bar.start()
        elif event == LogEvent.JOB_INFO:
            self._started(record)
        elif event == LogEvent.JOB_FINISHED:
            self._estimate.finish(record.job_id, time.monotonic())
        elif (durations := getattr(record, "durations", None)) is not None:
            self._estimate.expect(durations)
        elif event == LogEvent.PROGRESS:
            self._progressed(record.done)
        elif event not in _HIDDEN and not record.getMessage().startswith(_CHATTER):
            self._pass_on(record)

    def close(self) -> None:
        self._bar.stop()
        super().close()

    def _planned(self, event: LogEvent | None, record: Any) -> None:
        """A line per job, without rich: else half of a large plan's time is for showing it."""
        if event == LogEvent.JOB_INFO:
            why, _, _ = str(record.reason).partition(":")  # then come files, hundreds of them
            text = f"{_words(record)}  ({why.lower()})"
        elif event == LogEvent.SHELLCMD and not self.common_settings.printshellcmds:
            return
        else:
            text = self.format(record)
        if text:
            sys.stderr.write(f"{text}\n")

    def _started(self, record: Any) -> None:
        self._estimate.start(record.jobid, record.rule_name, time.monotonic())
        if record.rule_name == "all":
            return
        self._console.print(f"{time.strftime('%H:%M:%S')}  {_words(record)}", markup=False)

    def _progressed(self, done: int) -> None:
        left = self._estimate.left(time.monotonic())
        self._bar.update(self._task, completed=done, left=left)
        if not sys.stderr.isatty():
            self._console.print(f"          {done} of {self._estimate.total} jobs done, {left}")

    def _pass_on(self, record: logging.LogRecord) -> None:
        if text := self.format(record):
            self._console.print(text, markup=False)


def _words(record: Any) -> str:
    """A job's stage and labels; the rule of a stage's quick methods is called after the stage."""
    labels = " ".join(map(str, (record.wildcards or {}).values()))
    stage = record.rule_name.removesuffix("_quick")
    return f"{stage:<12} {labels or _WITHOUT_LABELS.get(stage, '')}".rstrip()
