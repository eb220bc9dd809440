METRICS = [metric for metric in EXPERIMENT.metrics if metric.judges_samples]
PHOTO_METRICS = photo_metrics(EXPERIMENT.metrics)
FACES = EXPERIMENT.faces
LABELS = " ".join(
    f"--{f.name} {{wildcards.{f.name}:q}}" for f in dataclasses.fields(Cell)[:-1]
)
KNOWN = [f"--known={path}"] if (path := CONFIG.dataset_spec.references) else []


rule references:
    input:
        sources("references"),
    output:
        LAYOUT.references(W),
    log:
        LAYOUT.log("references", W),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        benchmark=str(LAYOUT.benchmark("references", W)),
        faces=literal(FACES_JSON),
        folders=data_of_all,
        known=literal(*KNOWN),
        scratch=SCRATCH,
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "references {params.folders:q} --faces {params.faces:q} {params.known:q} "
        "--output {output:q} --force --scratch {params.scratch:q} > {log:q} 2>&1"


rule distances:
    input:
        sources("distances"),
    output:
        LAYOUT.distances(W),
    log:
        LAYOUT.log("distances", W),
    localrule: not gpus(PHOTO_METRICS)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=gpus(PHOTO_METRICS),
    params:
        benchmark=str(LAYOUT.benchmark("distances", W)),
        photos=place("distances", "photos"),
        originals=place("distances", "originals"),
        metrics=literal(*metric_options(PHOTO_METRICS)),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "distances {params.photos:q} {params.originals:q} {params.metrics:q} "
        f"{LABELS} --output {{output:q}} --force > {{log:q}} 2>&1"


rule score:
    input:
        sources("score"),
    output:
        LAYOUT.scores(W),
    log:
        LAYOUT.log("score", W),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=gpus(METRICS),
    params:
        benchmark=str(LAYOUT.benchmark("score", W)),
        samples=place("score", "samples"),
        references=references_option,
        photos=place("score", "photos"),
        faces=literal(FACES_JSON),
        metrics=literal(*metric_options(METRICS)),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "score {params.samples:q} {params.references:q} "
        "--photos {params.photos:q} --faces {params.faces:q} {params.metrics:q} "
        f"{LABELS} --trainer {{wildcards.trainer:q}} "
        "--output {output:q} --force > {log:q} 2>&1"
