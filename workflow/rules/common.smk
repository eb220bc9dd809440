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
from cloakbench.config import Experiment
from cloakbench.errors import CloakBenchError, explain_os_error
from cloakbench.jobs import sweep
from cloakbench.layout import WILDCARDS as W
from cloakbench.layout import Cell
from cloakbench.outputs import MANIFEST, hold
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify.base import code_of
from cloakbench.registry import code_digest
from cloakbench.sampling import sampling_code
from cloakbench.score.faces import backends
from cloakbench.score.metric import metrics
from cloakbench.weights import sha256_of, weights_digest

# A plan is millions of objects that all live on; to search them for garbage again and again took a
# fifth of the time of a large plan.
gc.set_threshold(1_000_000)

# Jobs run the `cloakbench` of this checkout, with the packages of the Python that runs this, or
# with those of conda's environment, which hold no `cloakbench`.
IN_CONDA = "conda" in {str(m) for m in workflow.deployment_settings.deployment_method}
PYTHON = "python" if IN_CONDA else shlex.quote(sys.executable)
SOURCES = shlex.quote(str(Path(cloakbench.__file__).parents[1]))
shell.prefix(
    f'cloakbench() ( PYTHONPATH={SOURCES} exec {PYTHON} -m cloakbench "$@" ); '
)

logging.raiseExceptions = False  # on a full disk: no traceback for every line of a log

try:
    EXPERIMENT = Experiment.parse(config)
    EXPERIMENT.check()
except CloakBenchError as error:
    sys.exit(f"error: {error}")

LAYOUT = EXPERIMENT.layout
TABLES = LAYOUT.tables(EXPERIMENT.experiment)
SUMMARY = TABLES / "summary.md"
CELLS = EXPERIMENT.cells()
ENVIRONMENT = "../../envs/cloakbench.yaml"
SCRATCH = LAYOUT.root / ".scratch"
CLASS_IMAGES = LAYOUT.class_images(EXPERIMENT.model, EXPERIMENT.prompts.class_noun)

PROTECTIONS = EXPERIMENT.all_protections
PURIFIERS = EXPERIMENT.all_purifiers
TRAINERS = EXPERIMENT.all_trainers
MODEL_JSON = EXPERIMENT.model_spec.model_dump_json()
OF_CLASS = {"class_noun", "of_class"}
CLASS_PROMPTS_JSON = EXPERIMENT.prompts.model_dump_json(include=OF_CLASS)
PROMPTS_JSON = EXPERIMENT.prompts.model_dump_json()
TRAINING_PROMPTS_JSON = EXPERIMENT.prompts.model_dump_json(exclude={"sample"})
SAMPLING_JSON = EXPERIMENT.sampling.model_dump_json()
SAMPLING_CODE = sampling_code()
CLASS_SAMPLING_JSON = EXPERIMENT.class_images.model_dump_json()
FACES_JSON = json.dumps(EXPERIMENT.face_backend.spec())
CONFIG_JSON = json.dumps(config, default=str)
MODEL_DIGEST = weights_digest(EXPERIMENT.model_spec, cache=EXPERIMENT.digests)
PHOTOS = {
    identity: [
        path
        for files in EXPERIMENT.dataset_spec.sets(identity).values()
        for path in files
    ]
    for identity in EXPERIMENT.dataset_spec.identities()
}
PHOTO_DIGESTS = sha256_of(
    [path for paths in PHOTOS.values() for path in paths], EXPERIMENT.digests
)


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"  # of none: what never matches


wildcard_constraints:
    model=one_of([EXPERIMENT.model]),
    dataset=one_of([EXPERIMENT.dataset]),
    identity=one_of(EXPERIMENT.dataset_spec.identities()),
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


def metric_code(chosen):
    """What changes with the code of metrics."""
    return [metrics.digest(metric.name) for metric in chosen]


def by_label(key, values):
    """A function from wildcards to the value of the label that `key` has, for `params`."""
    return lambda wildcards: values[wildcards[key]]


def spec(methods, key):
    """The method's spec as JSON, for `params`."""
    return by_label(
        key, {k: json.dumps(method.spec()) for k, method in methods.items()}
    )


def code(methods, registry, key):
    """The digest of the method's code, for `params`: an edit reruns its cells."""
    return by_label(
        key, {k: registry.digest(method.name) for k, method in methods.items()}
    )


def weights(methods, key):
    """The digest of the files behind the method, for `params`: new weights rerun its cells."""
    model = EXPERIMENT.model_spec
    files = {k: [m, model] if "model" in m.uses else [m] for k, m in methods.items()}
    digests = {
        k: weights_digest(*f, cache=EXPERIMENT.digests) for k, f in files.items()
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
    uses = PROTECTIONS[wildcards.protection].uses
    wanted = [manifest(LAYOUT.data(cell(wildcards)))]
    return wanted + ([manifest(CLASS_IMAGES)] if "class_images" in uses else [])


def training_inputs(wildcards):
    """Class images for the trainers with prior preservation."""
    return [manifest(CLASS_IMAGES)] if TRAINERS[wildcards.trainer].prior_weight else []


def data_of_all(wildcards):
    """Every identity of the dataset is a possible answer to "who is this?"."""
    everyone = EXPERIMENT.dataset_spec.identities()
    return [
        manifest(LAYOUT.data(dataclasses.replace(cell(wildcards), identity=i)))
        for i in everyone
    ]


def shown(path, category, what):
    """An output that `snakemake --report` shows, with the caption of its name."""
    caption = f"../report/{path.stem}.rst"
    return report(path, caption=caption, category=category, labels={"what": what})
