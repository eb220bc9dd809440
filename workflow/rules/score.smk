METRICS = [metric for metric in EXPERIMENT.metrics if metric.judges_samples]
PHOTO_METRICS = photo_metrics(EXPERIMENT.metrics)
FACES = EXPERIMENT.faces
FACES_DIGEST = weights_digest(FACES, cache=EXPERIMENT.digests)
REFERENCES = [LAYOUT.references(W)] if EXPERIMENT.uses_references else []
LABELS = " ".join(
    f"--{f.name} {{wildcards.{f.name}:q}}" for f in dataclasses.fields(Cell)[:5]
)


rule references:
    input:
        data_of_all,
    output:
        LAYOUT.references(W),
    log:
        LAYOUT.log("references", W),
    benchmark:
        LAYOUT.benchmark("references", W)
    conda:
        ENVIRONMENT
    threads: 1
    params:
        faces=literal(FACES_JSON),
        folders=lambda wildcards, input: [str(Path(path).parent) for path in input],
        code=code_of("cloakbench.score.references", FACES),
        weights=FACES_DIGEST,
    shell:
        "cloakbench references {params.folders:q} --faces {params.faces:q} --output {output:q} "
        "2> {log:q}"


rule distances:
    input:
        photos=manifest(LAYOUT.purified(W)),
        originals=manifest(LAYOUT.data(W)),
    output:
        LAYOUT.distances(W),
    log:
        LAYOUT.log("distances", W),
    benchmark:
        LAYOUT.benchmark("distances", W)
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    params:
        photos=subpath(input.photos, parent=True),
        originals=subpath(input.originals, parent=True),
        metrics=literal(*metric_options(PHOTO_METRICS)),
        code=code_of("cloakbench.score.photos", *PHOTO_METRICS),
        weights=weights_digest(*PHOTO_METRICS, cache=EXPERIMENT.digests),
    shell:
        "cloakbench distances {params.photos:q} {params.originals:q}/set_B {params.metrics:q} "
        f"{LABELS} --output {{output:q}} 2> {{log:q}}"


rule score:
    input:
        samples=manifest(LAYOUT.generated(W)),
        photos=manifest(LAYOUT.data(W)),
        references=REFERENCES,
    output:
        LAYOUT.scores(W),
    log:
        LAYOUT.log("score", W),
    benchmark:
        LAYOUT.benchmark("score", W)
    conda:
        ENVIRONMENT
    threads: 1
    params:
        samples=subpath(input.samples, parent=True),
        photos=subpath(input.photos, parent=True),
        references=[f"--references={path}" for path in REFERENCES],
        faces=literal(FACES_JSON),
        metrics=literal(*metric_options(METRICS)),
        code=code_of("cloakbench.score.samples", FACES, *METRICS),
        weights=[FACES_DIGEST, weights_digest(*METRICS, cache=EXPERIMENT.digests)],
    shell:
        "cloakbench score {params.samples:q} {params.references:q} "
        "--photos {params.photos:q}/set_C --faces {params.faces:q} {params.metrics:q} "
        f"{LABELS} --trainer {{wildcards.trainer:q}} "
        "--output {output:q} 2> {log:q}"
