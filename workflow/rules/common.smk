# From the config to labels, specs and targets; rules below read as tables.
import dataclasses
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

from cloakbench.config import Experiment
from cloakbench.errors import CloakBenchError
from cloakbench.layout import WILDCARDS as W
from cloakbench.layout import Cell
from cloakbench.outputs import MANIFEST
from cloakbench.personalise import trainers
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.registry import code_digest
from cloakbench.score.faces import backends
from cloakbench.score.metric import metrics

# Jobs find the `cloakbench` of the Python that runs this, also where .venv is not activated.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

try:
    EXPERIMENT = Experiment.parse(config)
    EXPERIMENT.check()
except CloakBenchError as error:
    sys.exit(f"error: {error}")

LAYOUT = EXPERIMENT.layout
TABLES = LAYOUT.tables(EXPERIMENT.experiment)
CELLS = EXPERIMENT.cells()
ENVIRONMENT = str(Path(workflow.basedir) / "envs" / "cloakbench.yaml")
SCRATCH = LAYOUT.root / ".scratch"
LOGS = LAYOUT.root / "logs"
BENCHMARKS = LAYOUT.root / "benchmarks"
CLASS_IMAGES = LAYOUT.class_images(EXPERIMENT.model, EXPERIMENT.prompts.class_noun)
GPU = int(
    shutil.which("nvidia-smi") is not None
)  # asked of the executor by every rule that runs a model

PROTECTIONS = EXPERIMENT.all_protections
PURIFIERS = EXPERIMENT.all_purifiers
TRAINERS = EXPERIMENT.all_trainers
MODEL_JSON = EXPERIMENT.model_spec.model_dump_json()
PROMPTS_JSON = EXPERIMENT.prompts.model_dump_json(exclude={"sample"})
SAMPLING_JSON = EXPERIMENT.sampling.model_dump_json()
CLASS_SAMPLING_JSON = EXPERIMENT.class_images.model_dump_json()
FACES_JSON = json.dumps(EXPERIMENT.face_backend.spec())
CONFIG_JSON = json.dumps(config, default=str)


def one_of(names):
    return "|".join(map(re.escape, names))


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


def literal(value):
    """A `params` value whose braces are not wildcards."""
    return lambda wildcards: value


def spec(methods, key):
    """A function from wildcards to the method's spec as JSON, for `params`."""
    specs = {label: json.dumps(method.spec()) for label, method in methods.items()}
    return lambda wildcards: specs[wildcards[key]]


def code(methods, registry, key):
    """A function from wildcards to the digest of the method's code: an edit reruns its cells."""
    digests = {label: registry.digest(method.name) for label, method in methods.items()}
    return lambda wildcards: digests[wildcards[key]]


def code_of_links(purifier):
    """The digests of the purifiers that one runs."""
    return [purifiers.digest(link.name) for link in purifier.links]


def gpus(*methods):
    """How many GPUs a job of these methods asks for."""
    return GPU * any(method.needs & {"model", "gpu"} for method in methods)


def photos(wildcards):
    """Every photo of an identity, where the dataset keeps it."""
    sets = EXPERIMENT.dataset_spec.sets(wildcards.identity)
    return [path for files in sets.values() for path in files]


def protect_inputs(wildcards):
    """The identity's photos, and class images for the protections that train a surrogate."""
    needs = PROTECTIONS[wildcards.protection].needs
    wanted = [manifest(LAYOUT.data(cell(wildcards)))]
    return wanted + ([manifest(CLASS_IMAGES)] if "class_images" in needs else [])


def data_of_all(wildcards):
    """Every identity of the dataset is a possible answer to "who is this?"."""
    everyone = EXPERIMENT.dataset_spec.identities()
    return [
        manifest(LAYOUT.data(dataclasses.replace(cell(wildcards), identity=i)))
        for i in everyone
    ]
