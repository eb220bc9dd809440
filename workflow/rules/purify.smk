rule purify:
    input:
        manifest(LAYOUT.protected(W)),
    output:
        manifest(LAYOUT.purified(W)),
    log:
        LOGS / "{model}/{dataset}/{identity}/purify/{protection}/{purification}.log",
    benchmark:
        BENCHMARKS
        / "{model}/{dataset}/{identity}/purify/{protection}/{purification}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=lambda wildcards: gpus(*PURIFIERS[wildcards.purification].links),
    params:
        spec=spec(PURIFIERS, "purification"),
        code=lambda wildcards: code_of_links(PURIFIERS[wildcards.purification]),
        photos=subpath(input[0], parent=True),
        model=literal(MODEL_JSON),
        seed=EXPERIMENT.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench purify {params.spec:q} --model {params.model:q} "
        "--photos {params.photos:q} --out {params.out:q} "
        "--identity {wildcards.identity:q} --seed {params.seed} --threads {threads} "
        "--scratch {params.scratch:q} 2> {log:q}"
