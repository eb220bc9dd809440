"""What a cell costs the processor, here and at another revision, and what a training step costs.

    python benchmarks/cell.py --base 170a7cb
    python benchmarks/cell.py --base HEAD~20 --repeats 5 --json

One identity of the miniature, noise, jpeg, DreamBooth: the same settings and metrics in both
revisions, each with its own code, in this environment. A study runs once in each; then the jobs of
the cell run again by their commands, the revisions in turns, as forks of a process that has loaded
the libraries where the revision's runs do so (cloakbench.running.forks); what that takes once in a
run is no part of the cell, and said beside it. The training step is compared with that of
diffusers' published DreamBooth script, written anew from a description of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import yaml

from cloakbench.running.benchmark import read_benchmark

REPOSITORY = Path(__file__).resolve().parents[1]
JOBS = ("purify", "distances", "personalise", "score")
STUDY = {
    "experiment": "cell",
    "identities": ["person_000003"],
    "protections": ["noise"],
    "purifications": ["jpeg"],
    "trainers": ["dreambooth"],
    "class_images": {"images": 8, "steps": 25, "guidance": 2.0, "sampler": "dpmpp"},
    "metrics": ["fdfr", "ism", "relative_ism", "identified", "clip_iqac", "brisque"],
}


class Revision:
    """A checkout with a finished study, and the commands of its cell."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree, self.folder, self.socket = tree, folder, ""
        folder.mkdir()
        (folder / "resources").symlink_to(tree / "resources")
        config = yaml.safe_load((tree / "config.yaml").read_text()) | STUDY
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self._snakemake()
        headings, *lines = [
            line.split("\t") for line in self._snakemake("--detailed-summary").splitlines()
        ]
        rows = [dict(zip(headings, line, strict=False)) for line in lines]
        self.commands = {
            stage: next(row for row in rows if row["rule"].startswith(stage)) for stage in JOBS
        }
        self.server: psutil.Popen | None = None
        if (tree / "src" / "cloakbench" / "running" / "forks.py").exists():
            self._serve()

    def _serve(self) -> None:
        place = self.folder / "sockets" / "forks"
        place.parent.mkdir()
        self.server = psutil.Popen(
            [sys.executable, "-P", "-m", "cloakbench.running.forks", place],
            env=self._environment() | {"CLOAKBENCH_FORKS": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.server.stdout.readline()
        self.socket = str(place)

    def loading(self) -> float:
        """CPU seconds of the process that the jobs are forks of."""
        if self.server is None:
            return 0.0
        times = self.server.cpu_times()
        self.server.stdin.close()
        return float(times.user + times.system)

    def cpu_seconds(self) -> dict[str, float]:
        """Of each job of the cell, done again."""
        return {stage: self._again(row) for stage, row in self.commands.items()}

    def _again(self, row: dict[str, str]) -> float:
        path = self.folder / row["output_file"]
        shutil.rmtree(path.parent) if path.name == "job.json" else path.unlink()
        shutil.rmtree(self.folder / "results" / ".scratch", ignore_errors=True)  # nothing to resume
        words = shlex.split(row["shellcmd"])
        start = words.index("cloakbench") + 1
        end = next(n for n, word in enumerate(words) if word in {">", "2>"})
        command = [sys.executable, "-P", "-m", "cloakbench", *words[start:end]]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.DEVNULL,  # which is for the figures
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"error: failed in {self.tree}: {' '.join(words[start:end])}")
        seconds = usage.ru_utime + usage.ru_stime
        return seconds + self._of_fork(words) if self.server else seconds

    def _of_fork(self, words: list[str]) -> float:
        took = read_benchmark(self.folder / words[words.index("--benchmark") + 1])
        assert took is not None
        return took.cpu_seconds

    def _snakemake(self, *options: str) -> str:
        snakemake = Path(sys.executable).with_name("snakemake")
        command = [snakemake, "--snakefile", self.tree / "Snakefile", "--cores", "1", *options]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"error: the study failed in {self.tree}:\n{done.stderr[-3000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        source = str(self.tree / "src")
        variables = {"PYTHONPATH": source, "PATH": here, "OMP_NUM_THREADS": "1"}
        return os.environ | variables | ({"CLOAKBENCH_FORKS": self.socket} if self.socket else {})


def steps(count: int) -> tuple[float, float]:
    """CPU seconds of a training step, ours and the published script's."""
    import torch
    from torch.nn.functional import mse_loss

    from cloakbench.files.images import load_photos
    from cloakbench.identity import Identity
    from cloakbench.models.loading import load_model
    from cloakbench.models.spec import ModelSpec
    from cloakbench.personalise import trainers
    from cloakbench.prompts import Prompts
    from cloakbench.running.jobs import Job

    torch.set_num_threads(1)
    photos = load_photos(REPOSITORY / "resources/identities/person_000003/set_B")
    identity, job = Identity(photos, Prompts(), class_images=photos), Job(0)
    trainer: Any = trainers.build({"method": "dreambooth", "preset": "mini"})
    spec = ModelSpec(path=str(REPOSITORY / "resources/mini"), resolution=128)

    model: Any = load_model(spec)
    tuner = trainer.tuner(model, identity, job)
    instance = model.posterior_once(photos.pixels)

    def ours(step: int) -> None:
        tuner.step(instance, step, job.rng)

    published: Any = load_model(spec)
    unet, text_encoder = published.unet.train(), published.text_encoder.train()
    for network in (unet, text_encoder):
        network.requires_grad_(True)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=trainer.learning_rate, weight_decay=1e-2)
    size, prompts = trainer.batch_size, identity.prompts
    texts = [prompts.instance_prompt] * size + [prompts.class_prompt] * size

    def theirs(step: int) -> None:
        """Images are encoded, texts tokenised and losses read in every step."""
        chosen = [(step * size + n) % len(photos.pixels) for n in range(size)]
        pixels = 2 * photos.pixels[chosen + chosen] - 1
        vae, scheduler = published.vae, published.scheduler
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
        tokens = published.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        )
        embedded = text_encoder(tokens.input_ids)[0]
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = unet(noisy, timesteps, embedded).sample
        loss, prior = (
            mse_loss(*pair) for pair in zip(predicted.chunk(2), noise.chunk(2), strict=True)
        )
        (loss + prior).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()

    spent = {ours: 0.0, theirs: 0.0}
    for step in range(-2, count):  # two to warm up
        for take in spent:
            begun = time.process_time()
            take(step + 2)
            spent[take] += (time.process_time() - begun) * (step >= 0)
    return spent[ours] / count, spent[theirs] / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="HEAD", help="the revision to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of training, each")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="cloakbench-cell-") as name:
        root = Path(name)
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", root / "base", arguments.base], check=True)
        try:
            revisions = {
                "base": Revision(root / "base", root / "study-base"),
                "here": Revision(REPOSITORY, root / "study-here"),
            }
            for _ in range(arguments.repeats):
                for which, revision in revisions.items():
                    for stage, seconds in revision.cpu_seconds().items():
                        times[which][stage].append(seconds)
            loading = {which: revision.loading() for which, revision in revisions.items()}
        finally:
            subprocess.run([*git, "remove", "--force", root / "base"], check=True)
    medians = {
        which: {stage: statistics.median(found) for stage, found in each.items()}
        for which, each in times.items()
    }
    cell = {which: sum(each.values()) for which, each in medians.items()}
    ours, theirs = steps(arguments.steps)
    made = {
        "cpu_seconds": cell,
        "ratio": cell["here"] / cell["base"],
        "stages": medians,
        "loading_cpu_seconds": loading,
        "ratio_with_loading": (cell["here"] + loading["here"]) / (cell["base"] + loading["base"]),
        "step_cpu_seconds": {"here": ours, "published": theirs},
        "step_ratio": theirs / ours,
    }
    print(json.dumps(made, indent=2) if arguments.json else _table(made))


def _table(made: dict[str, Any]) -> str:
    stages = made["stages"]
    rows = {stage: [stages[which][stage] for which in ("base", "here")] for stage in JOBS}
    rows["cell"] = [made["cpu_seconds"][which] for which in ("base", "here")]
    lines = [f"{'CPU seconds':>14}{'base':>10}{'here':>10}{'ratio':>8}"]
    for stage, (base, here) in rows.items():
        lines.append(f"{stage:>14}{base:>10.1f}{here:>10.1f}{here / base:>8.2f}")
    loading = made["loading_cpu_seconds"]
    lines.append(
        f"loading, once a run: {loading['base']:.1f} and {loading['here']:.1f}; a run of one cell, "
        f"with it: {made['ratio_with_loading']:.2f}"
    )
    step = made["step_cpu_seconds"]
    lines.append(
        f"a training step: {step['here']:.3f} here, {step['published']:.3f} as published, "
        f"{made['step_ratio']:.2f} times ours"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
