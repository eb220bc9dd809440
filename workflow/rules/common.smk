# From the config to labels, specs and targets; rules below read as tables.
import dataclasses
import errno
import gc
import json
import logging
import re
import shlex
import os
import shutil
import sys
import time
from collections import defaultdict
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean

import cloakbench
from cloakbench.experiment.config import load
from cloakbench.experiment.expected import OF_METHODS, Expected
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.measured import seconds_of
from cloakbench.experiment.tasks import Task, all_tasks, inputs, result, task_of
from cloakbench.errors import CloakBenchError, explain_os_error
from cloakbench.running import forks
from cloakbench.running.jobs import sweep
from cloakbench.files.layout import WILDCARDS as W
from cloakbench.files.layout import CLASS_SEED, Cell
from cloakbench.files.outputs import MANIFEST, hold, new_file
from cloakbench.report.figures import figures
from cloakbench.score.base import photo_metrics

# A plan is millions of objects that all live on; to search them for garbage again and again took a
# fifth of the time of a large plan.
gc.set_threshold(1_000_000)

logging.raiseExceptions = False  # on a full disk: no traceback for every line of a log

try:
    load(map(Path, workflow.configfiles))  # stricter than Snakemake's own reading
    EXPERIMENT = Experiment.parse(config)
    EXPERIMENT.check()
except CloakBenchError as error:
    sys.exit(f"error: {error}")

CONFIG, LAYOUT = EXPERIMENT.config, EXPERIMENT.layout

# Jobs run the `cloakbench` of this checkout, with the packages of the Python that runs this, or
# with those of conda's environment, which hold no `cloakbench`; and the config's plug-ins.
IN_CONDA = "conda" in {str(m) for m in workflow.deployment_settings.deployment_method}
PYTHON = "python" if IN_CONDA else shlex.quote(sys.executable)
SOURCES = shlex.quote(str(Path(cloakbench.__file__).parents[1]))
PLUGINS = shlex.join(f"--plugin={file.absolute()}" for file in CONFIG.plugins)
shell.prefix(
    'cloakbench() ( PYTHONPATH={SOURCES} exec {PYTHON} -P -m cloakbench {PLUGINS} "$@" ); '
)

EXPECTED = Expected(EXPERIMENT)
TABLES = LAYOUT.tables(EXPERIMENT.name)
REPORT = LAYOUT.report(EXPERIMENT.name)
CELLS = EXPERIMENT.cells()
ENVIRONMENT = "../../envs/cloakbench.yaml"
SCRATCH = LAYOUT.scratch
CLASS_IMAGES = LAYOUT.class_images(W.model, CONFIG.prompts.class_noun)
OUTDATED = LAYOUT.root / ".outdated"

PROTECTIONS = EXPERIMENT.protections
PURIFIERS = EXPERIMENT.purifiers
TRAINERS = EXPERIMENT.trainers
MODELS = {name: model.model_dump_json() for name, model in EXPERIMENT.models.items()}
MODEL_JSON = MODELS[CONFIG.model]
OF_CLASS = {"class_noun", "of_class"}
CLASS_PROMPTS_JSON = CONFIG.prompts.model_dump_json(include=OF_CLASS)
PROMPTS_JSON = CONFIG.prompts.model_dump_json()
TRAINING_PROMPTS_JSON = CONFIG.prompts.model_dump_json(exclude={"sample"})
SAMPLING_JSON = CONFIG.sampling.model_dump_json()
CLASS_SAMPLING_JSON = CONFIG.class_images.model_dump_json()
FACES_JSON = json.dumps(EXPERIMENT.faces.spec())
CONFIG_JSON = json.dumps(config, default=str)


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"  # of none: what never matches


wildcard_constraints:
    model=one_of(MODELS),
    dataset=one_of([CONFIG.dataset]),
    identity=one_of(CONFIG.dataset_spec.identities()),
    seed=one_of(map(str, CONFIG.seeds)),
    protection=one_of(PROTECTIONS),
    purification=one_of(PURIFIERS),
    trainer=one_of(TRAINERS),


def cell(wildcards):
    """The cell of a job; wildcards that a rule lacks stay empty."""
    return Cell(*(getattr(wildcards, f.name, "") for f in dataclasses.fields(Cell)))


def manifest(folder):
    return folder / MANIFEST


# Results tell themselves whether they are current, so the times of files say nothing here: a job's
# inputs are ancient, unless they will be made anew, and a job whose own result is outdated has one
# input more, a file that is newer than all results. Snakemake compares contents, too, so that file
# has another one each time.
if workflow.is_main_process:
    with new_file(OUTDATED) as part:
        part.write_text(str(time.time_ns()))


def is_there(path):
    """Whether a file is there. One from a clock that is ahead would be newer than all that is made of
    it, which Snakemake takes for an error, so its time is set back.
    """
    if not path.exists():
        return False
    if workflow.is_main_process and path.stat().st_mtime >= OUTDATED.stat().st_mtime:
        with suppress(PermissionError):  # another user's
            os.utime(path, (1, 1))
    return True


@cache
def is_current(task):
    """Whether a job's result is there, and is what this experiment makes."""
    return is_there(result(task, EXPERIMENT)) and not EXPECTED.outdated(task)


@cache
def stays(task):
    """Whether neither a job nor any before it will run."""
    before = [each for each, _ in inputs(task, EXPERIMENT).values()]
    return is_current(task) and all(map(stays, before))


def settled(path, stays):
    return ancient(path) if stays else path


def again(path, is_current):
    """The newer file, if a result is there and has to be made again."""
    return [OUTDATED] if is_there(path) and not is_current else []


def job_of(stage, wildcards):
    return task_of(stage, cell(wildcards) if wildcards else CELLS[0], EXPERIMENT)


def sources(stage):
    """A function from wildcards to a job's inputs: the results that its own is made of."""

    def look(wildcards):
        task = job_of(stage, wildcards)
        made = dict.fromkeys(each for each, _ in inputs(task, EXPERIMENT).values())
        files = [settled(result(each, EXPERIMENT), stays(each)) for each in made]
        return files + again(result(task, EXPERIMENT), is_current(task))

    return look


def place(stage, name):
    """A function from wildcards to where one of a job's inputs is, for `params`."""
    return lambda wildcards: inputs(job_of(stage, wildcards), EXPERIMENT)[name][1]


def places(stage):
    """A function from wildcards to options that name a job's inputs, for `params`."""

    def look(wildcards):
        made = inputs(job_of(stage, wildcards), EXPERIMENT)
        return [
            f"--{name.replace('_', '-')}={path}" for name, (_, path) in made.items()
        ]

    return look


SCORED = [t for stage in ("score", "distances") for t in all_tasks(EXPERIMENT)[stage]]


def photos(wildcards):
    """An identity's photos, where the dataset keeps them."""
    sets = CONFIG.dataset_spec.sets(wildcards.identity)
    files = [ancient(path) for files in sets.values() for path in files]
    return files + sources("data")(wildcards)


def data_of_all(wildcards):
    """Every identity of the dataset is a possible answer to "who is this?"."""
    everyone = inputs(Task("references", cell(wildcards)), EXPERIMENT)
    return [path for _, path in everyone.values()]


def references_option(wildcards):
    """Where the references are, if a metric compares with them."""
    made = inputs(job_of("score", wildcards), EXPERIMENT).get("references")
    return [f"--references={made[1]}"] if made else []


def scores(wildcards):
    """All that goes into the tables."""
    files = [settled(result(task, EXPERIMENT), stays(task)) for task in SCORED]
    return files + again(manifest(TABLES), EXPECTED.has_tables())


def tables(wildcards):
    """What goes into the report."""
    made = settled(manifest(TABLES), EXPECTED.has_tables() and all(map(stays, SCORED)))
    return [made, *again(manifest(REPORT.parent), EXPECTED.has_report())]


def literal(*values):
    """A `params` value whose braces are not wildcards: Snakemake leaves tuples as they are.

    A function would do as well, but is looked at anew for each of tens of thousands of jobs.
    """
    return values


def metric_options(chosen):
    """Metrics as options of a command, for `params`."""
    return [f"--metric={json.dumps(metric.spec())}" for metric in chosen]


def by_label(key, values):
    """A function from wildcards to the value of the label that `key` has, for `params`."""
    return lambda wildcards: values[wildcards[key]]


def spec(methods, key):
    """The spec of the method as JSON, for `params`; those that read folders have one per cell."""
    known = {k: json.dumps(m.spec()) for k, m in methods.items() if not m.folders}

    def look(wildcards):
        if (label := wildcards[key]) in known:
            return known[label]
        return json.dumps(methods[label].of(cell(wildcards)).spec())

    return look


def options(methods, key, values):
    """Options of the command, for `params`, for the methods that use a model: others do not depend
    on them. `values` is a function from a label to the options.
    """

    def given(label):
        return [f"--{name}={value}" for name, value in values(label).items()]

    return by_label(
        key, {k: given(k) if "model" in m.uses else [] for k, m in methods.items()}
    )


def made_on(label):
    """The model that a protection is made on, and its prompts, as options."""
    model = MODELS[EXPERIMENT.surrogates[label]]
    return {"model": model, "prompts": TRAINING_PROMPTS_JSON}


def quick(methods):
    """The labels whose methods run no network: seconds of work, which no cluster is asked to do."""
    return [k for k, method in methods.items() if not method.uses & {"model", "gpu"}]


QUICK = {"protect": quick(PROTECTIONS), "purify": quick(PURIFIERS)}


def rule_of(task):
    """The rule that runs a job."""
    return (
        f"{task.stage}_quick" if task.label in QUICK.get(task.stage, ()) else task.stage
    )


def durations():
    """What jobs that wait took before, or in other experiments: seconds by rule."""
    alike, known = defaultdict(list), defaultdict(list)
    for task in chain.from_iterable(all_tasks(EXPERIMENT).values()):
        method = task.label if task.stage in OF_METHODS else ""
        alike[rule_of(task), method].append(task)
    for (rule, _), tasks in alike.items():
        done = [task for task in tasks if is_current(task)]
        waiting = len(tasks) - len(done)
        if waiting and (took := seconds_of(tasks, done, EXPERIMENT, EXPECTED)):
            known[rule] += [fmean(took)] * waiting
    return dict(known)


def gpus(methods):
    """How many GPUs a job asks for that runs methods with networks of their own."""
    return int(any("gpu" in method.uses for method in methods))


def shown(path, category, what):
    """An output that `snakemake --report` shows, with the caption of its name."""
    caption = f"../report/{path.stem}.rst"
    return report(path, caption=caption, category=category, labels={"what": what})
