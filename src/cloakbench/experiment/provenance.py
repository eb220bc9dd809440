"""Where an experiment's numbers come from: software, settings, weights, machines, time and memory.

Nothing here names a host, a user or a place outside the folder that the experiment ran in.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from cloakbench import __version__
from cloakbench.experiment.status import duration
from cloakbench.experiment.tasks import all_tasks, manifest
from cloakbench.files.layout import CLASS_SEED, STAGES, trained
from cloakbench.files.text import markdown_row, markdown_text, write_text
from cloakbench.files.verified import load_manifest
from cloakbench.files.weights import WEIGHTS
from cloakbench.registry import Method
from cloakbench.running.benchmark import read_benchmark
from cloakbench.running.machine import environment, versions
from cloakbench.running.record import without_places
from cloakbench.score.references import References

if TYPE_CHECKING:
    from cloakbench.experiment.experiment import Experiment

SEEDS = (
    "A job's seed is 63 bits of the SHA-256 of the root seed, the stage and the identity; "
    "each draw adds its purpose and step (cloakbench.running.jobs.job_seed). No method's name goes "
    f"in. Class images have the root seed {CLASS_SEED}."
)


def make_provenance(
    experiment: Experiment, pooled: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """All that is known of how an experiment's results were made, as plain data.

    pooled: what this says of parts of the experiment that were made elsewhere, with equal weights.
    """
    parts = [part for each in pooled for part in ({**each, "pooled": []}, *each.get("pooled", []))]
    theirs = {name: digest for part in parts for name, digest in part["weights"].items()}
    manifests = [
        said | {"stage": stage}
        for stage, tasks in all_tasks(experiment).items()
        for task in tasks
        if (said := load_manifest(manifest(task, experiment))) is not None
    ]
    return {
        "experiment": experiment.name,
        "software": software(),
        "config": settings(experiment),
        "seeds": {"roots": experiment.config.seeds, "derivation": SEEDS},
        "weights": theirs | weight_digests(manifests),
        "environments": environments(manifests),
        "costs": costs(experiment),
        "references": faces_of_references(experiment),
        "pooled": parts,
    }


def write_provenance(
    experiment: Experiment, folder: Path, pooled: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write `provenance.json` and, to be read, `provenance.md`; see `make_provenance`."""
    made = make_provenance(experiment, pooled)
    for name, text in {
        "provenance.json": json.dumps(made, indent=2) + "\n",
        "provenance.md": as_markdown(made),
    }.items():
        write_text(folder / name, text)


def software() -> dict[str, Any]:
    """Versions of what made the tables; `changed` says whether the code differs from its commit."""
    source = Path(__file__).parents[1]
    known = _git(source, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = _git(source, "rev-parse", "HEAD") if known else None
    return {
        "cloakbench": __version__,
        "commit": commit,
        "changed": _git(source, "diff", "--quiet", "HEAD", "--", ".") is None if commit else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
    }


def settings(experiment: Experiment) -> dict[str, Any]:
    """The config after defaults and presets: a config that runs the same experiment."""

    def entries(methods: Mapping[str, Method]) -> list[dict[str, Any]]:
        named = {label: method for label, method in methods.items() if trained(label) == label}
        return [{"name": label, **method.spec()} for label, method in named.items()]

    config, others = experiment.config, experiment.surrogates
    made_on = {k: {"model": v} for k, v in others.items() if v != experiment.config.model}
    resolved = config.model_dump(mode="json") | {
        "models": {k: model.model_dump(mode="json") for k, model in experiment.models.items()},
        "datasets": {config.dataset: config.dataset_spec.model_dump(mode="json")},
        "identities": config.chosen_identities,
        "preset": None,
        "protections": [
            entry | made_on.get(entry["name"], {}) for entry in entries(experiment.protections)
        ],
        "purifications": entries(experiment.purifiers),
        "trainers": entries(experiment.trainers),
        "faces": experiment.faces.spec(),
        "metrics": [metric.spec() for metric in experiment.metrics],
    }
    return without_places(resolved)


def weight_digests(manifests: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """SHA-256 of every weight file that went into results, by name."""
    models = [each["model"] for each in manifests if each.get("model")]
    found = [each.get("weights", {}) for each in (*manifests, *models)]
    named = {name: digest for files in found for digest, name in files.items()}
    return {name: named[name] for name in sorted(named) if Path(name).suffix in WEIGHTS}


def faces_of_references(experiment: Experiment) -> dict[str, int]:
    """In how many of the clean photos that samples are compared with a face is found: the dataset's
    own FDFR is what is left.
    """
    path = experiment.layout.references(experiment.cells()[0])
    if not experiment.uses_references or not path.exists():
        return {}
    people = References.read(path).identities.values()
    return {name: sum(getattr(each, name) for each in people) for name in ("photos", "faces")}


def environments(manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """On what the experiment's results were made, with their number per stage."""
    made: dict[str, Counter[str]] = defaultdict(Counter)
    wanted = environment("cpu").keys()
    for each in manifests:
        if isinstance(ran_on := each.get("ran_on"), dict) and ran_on.keys() >= wanted:
            made[json.dumps(ran_on, sort_keys=True)][each["stage"]] += 1
    return [{**json.loads(ran_on), "jobs": dict(counts)} for ran_on, counts in made.items()]


def costs(experiment: Experiment) -> list[dict[str, Any]]:
    """Time and memory of each stage and method, of the jobs that have a benchmark."""
    rows = []
    for stage, tasks in all_tasks(experiment).items():
        measured = defaultdict(list)
        for task in tasks:
            method = task.label if STAGES[stage] > STAGES["data"] else ""
            if took := read_benchmark(experiment.layout.benchmark(stage, task.cell)):
                measured[method].append((took.seconds, took.memory))
        for method, found in measured.items():
            seconds, memory = zip(*found, strict=True)
            rows.append(
                {
                    "stage": stage,
                    "method": method,
                    "jobs": len(found),
                    "seconds_mean": round(fmean(seconds), 2),
                    "seconds_max": max(seconds),
                    "seconds_total": round(sum(seconds), 2),
                    "memory_mb_mean": round(fmean(memory), 1),
                    "memory_mb_max": max(memory),
                }
            )
    return rows


def as_markdown(made: Mapping[str, Any]) -> str:
    """The same for readers."""
    software, roots = made["software"], made["seeds"]["roots"]
    changed = ", with changes" if software["changed"] else ""
    packages = ", ".join(f"{name} {found}" for name, found in software["packages"].items())
    digests = [(name, f"`{digest}`") for name, digest in made["weights"].items()]
    ran = [each for part in (made, *made["pooled"]) for each in part["environments"]]
    config = yaml.safe_dump(made["config"], sort_keys=False, allow_unicode=True, width=100)
    fence = "`" * (1 + max(2, *map(len, re.findall("`*", config))))  # the config cannot end it
    return "\n".join(
        [
            f"# {markdown_text(made['experiment'])}: where its numbers come from",
            "",
            f"cloakbench {software['cloakbench']} (commit {software['commit'] or 'unknown'}"
            f"{changed}), Python {software['python']} on {software['system']}: {packages}.",
            "",
            f"Root seeds: {', '.join(map(str, roots))}. {made['seeds']['derivation']}",
            "",
            *_faces(made),
            *_parts(made["pooled"]),
            "## Time and memory of jobs",
            "",
            *_spent(made["costs"]),
            "",
            "## Machines",
            "",
            *_ran(ran),
            "",
            "## Weights",
            "",
            *_table("file|SHA-256", digests),
            "",
            "## Config after defaults",
            "",
            f"{fence}yaml",
            config.rstrip(),
            fence,
            "",
        ]
    )


def _faces(made: Mapping[str, Any]) -> list[str]:
    if not (found := made.get("references")):
        return []
    backend, faces, photos = made["config"]["faces"]["method"], found["faces"], found["photos"]
    return [
        f"Of {photos:,} clean photos that samples are compared with, of everyone in the dataset, "
        f"{backend} finds a face in {faces:,}.",
        "",
    ]


def _parts(pooled: Sequence[Mapping[str, Any]]) -> list[str]:
    if not pooled:
        return []
    commits = ", ".join(dict.fromkeys(p["software"]["commit"] or "unknown" for p in pooled))
    return [
        "Scores of some cells were made elsewhere, with equal settings and weights, and are pooled "
        f"with those that were made here; their tables are by commit {commits}.",
        "",
    ]


def _spent(costs: Sequence[Mapping[str, Any]]) -> list[str]:
    jobs = sum(row["jobs"] for row in costs)
    in_all = duration(sum(row["seconds_total"] for row in costs))
    rows = [
        (row["stage"], row["method"], row["jobs"], f"{row['seconds_mean']:.1f} s",
         f"{row['seconds_max']:.1f} s", duration(row["seconds_total"]),
         f"{row['memory_mb_mean']:.0f} MB", f"{row['memory_mb_max']:.0f} MB")
        for row in costs
    ]  # fmt: skip
    said = (
        f"{jobs} jobs, {in_all} if one ran at a time. As they measured themselves, each in its "
        "last attempt; GPU memory is not in it."
    )
    table = _table("stage|method|jobs|mean|longest|total|mean peak memory|largest", rows)
    return [said, "", *table] if rows else table


def _ran(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        (e["cpu"], e["cores"], f"{e['memory_gb']} GB", e["gpu"] or "none",
         f"cloakbench {e['cloakbench']}, Python {e['python']}, torch {e['packages'].get('torch')}",
         ", ".join(f"{count} {stage}" for stage, count in e["jobs"].items()))
        for e in environments
    ]  # fmt: skip
    return _table("processor|cores|memory|GPU|software|jobs", rows)


def _table(headings: str, rows: Iterable[Sequence[object]]) -> list[str]:
    titles = headings.split("|")
    lines = [markdown_row(row) for row in [titles, *rows]]
    return [lines[0], "|" + " --- |" * len(titles), *lines[1:]] if lines[1:] else ["None noted."]


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails, is not there, or knows nothing of the folder."""
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
