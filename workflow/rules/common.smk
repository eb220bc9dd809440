# From the config to labels, specs and targets; rules below read as tables.
import dataclasses
import errno
import gc
import json
import logging
import re
import shlex
import shutil
import sys
from pathlib import Path

import cloakbench
from cloakbench.experiment.config import load
from cloakbench.experiment.experiment import Experiment
from cloakbench.errors import CloakBenchError, explain_os_error
from cloakbench.running.jobs import sweep
from cloakbench.files.layout import WILDCARDS as W
from cloakbench.files.layout import Cell
from cloakbench.files.outputs import MANIFEST, hold
from cloakbench.files.digest import code_digest
from cloakbench.score.base import photo_metrics
from cloakbench.files.weights import sha256_of
from cloakbench.registry import modules_of, weights_digest

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

TABLES = LAYOUT.tables(EXPERIMENT.name)
SUMMARY = TABLES / "summary.md"
CELLS = EXPERIMENT.cells()
ENVIRONMENT = "../../envs/cloakbench.yaml"
SCRATCH = LAYOUT.root / ".scratch"
CLASS_IMAGES = LAYOUT.class_images(CONFIG.model, CONFIG.prompts.class_noun)

PROTECTIONS = EXPERIMENT.protections
PURIFIERS = EXPERIMENT.purifiers
TRAINERS = EXPERIMENT.trainers
MODEL_JSON = CONFIG.model_spec.model_dump_json()
OF_CLASS = {"class_noun", "of_class"}
CLASS_PROMPTS_JSON = CONFIG.prompts.model_dump_json(include=OF_CLASS)
PROMPTS_JSON = CONFIG.prompts.model_dump_json()
TRAINING_PROMPTS_JSON = CONFIG.prompts.model_dump_json(exclude={"sample"})
SAMPLING_JSON = CONFIG.sampling.model_dump_json()
CLASS_SAMPLING_JSON = CONFIG.class_images.model_dump_json()
FACES_JSON = json.dumps(EXPERIMENT.faces.spec())
CONFIG_JSON = json.dumps(config, default=str)
MODEL_DIGEST = weights_digest(CONFIG.model_spec, cache=EXPERIMENT.digests)
PHOTOS = {
    identity: [
        path for files in CONFIG.dataset_spec.sets(identity).values() for path in files
    ]
    for identity in CONFIG.dataset_spec.identities()
}
PHOTO_DIGESTS = sha256_of(
    [path for paths in PHOTOS.values() for path in paths], EXPERIMENT.digests
)


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"  # of none: what never matches


wildcard_constraints:
    model=one_of([CONFIG.model]),
    dataset=one_of([CONFIG.dataset]),
    identity=one_of(CONFIG.dataset_spec.identities()),
    protection=one_of(PROTECTIONS),
    purification=one_of(PURIFIERS),
    trainer=one_of(TRAINERS),


def cell(wildcards):
    """The cell of a job; wildcards that a rule lacks stay empty."""
    return Cell(*(getattr(wildcards, f.name, "") for f in dataclasses.fields(Cell)))


def manifest(folder):
    return folder / MANIFEST


def literal(*values):
    """A `params` value whose braces are not wildcards: Snakemake leaves tuples as they are.

    A function would do as well, but is looked at anew for each of tens of thousands of jobs.
    """
    return values


def metric_options(chosen):
    """Metrics as options of a command, for `params`."""
    return [f"--metric={json.dumps(metric.spec())}" for metric in chosen]


def code_of(module, *parts):
    """A digest of the code of a module that a job runs, and of what it is given, for `params`."""
    return code_digest(module, *modules_of(*parts))


def by_label(key, values):
    """A function from wildcards to the value of the label that `key` has, for `params`."""
    return lambda wildcards: values[wildcards[key]]


def spec(methods, key):
    """The method's spec as JSON, for `params`."""
    return by_label(
        key, {k: json.dumps(method.spec()) for k, method in methods.items()}
    )


def used(method):
    """A method and, if it uses it, the model."""
    return [method, CONFIG.model_spec] if "model" in method.uses else [method]


def code(module, methods, key):
    """The digest of a stage's code with that of the method's, for `params`: an edit reruns its
    cells.
    """
    digests = {k: code_of(module, *used(method)) for k, method in methods.items()}
    return by_label(key, digests)


def weights(methods, key):
    """The digest of the files behind the method, for `params`: new weights rerun its cells."""
    digests = {
        k: weights_digest(*used(method), cache=EXPERIMENT.digests)
        for k, method in methods.items()
    }
    return by_label(key, digests)


def options(methods, key, **values):
    """Options of the command, for `params`, for the methods that use a model: others do not depend
    on them.
    """
    given = [f"--{name}={value}" for name, value in values.items()]
    return by_label(
        key, {k: given if "model" in m.uses else [] for k, m in methods.items()}
    )


def quick(methods):
    """The labels whose methods run no network: seconds of work, which no cluster is asked to do."""
    return [k for k, method in methods.items() if not method.uses & {"model", "gpu"}]


def photos(wildcards):
    """Every photo of an identity, where the dataset keeps it."""
    return PHOTOS[wildcards.identity]


def photo_digests(wildcards):
    """What photos hold, for `params`: others may come with an older time."""
    return [PHOTO_DIGESTS[path] for path in PHOTOS[wildcards.identity]]


def protect_inputs(wildcards):
    """The identity's photos, and class images for the protections that train a surrogate."""
    method = PROTECTIONS[wildcards.protection]
    return [manifest(LAYOUT.data(cell(wildcards))), *class_images(method)]


def training_inputs(wildcards):
    """Class images for the trainers with prior preservation."""
    return class_images(TRAINERS[wildcards.trainer])


def class_images(method):
    """The class images, if a method uses them."""
    return [manifest(CLASS_IMAGES)] if "class_images" in method.uses else []


def data_of_all(wildcards):
    """Every identity of the dataset is a possible answer to "who is this?"."""
    everyone = CONFIG.dataset_spec.identities()
    return [
        manifest(LAYOUT.data(dataclasses.replace(cell(wildcards), identity=i)))
        for i in everyone
    ]


def shown(path, category, what):
    """An output that `snakemake --report` shows, with the caption of its name."""
    caption = f"../report/{path.stem}.rst"
    return report(path, caption=caption, category=category, labels={"what": what})
