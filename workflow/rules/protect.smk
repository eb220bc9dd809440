rule protect:
    input:
        protect_inputs,
    output:
        manifest(LAYOUT.protected(W)),
    log:
        LOGS / "{model}/{dataset}/{identity}/protect/{protection}.log",
    benchmark:
        BENCHMARKS / "{model}/{dataset}/{identity}/protect/{protection}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=lambda wildcards: gpus(PROTECTIONS[wildcards.protection]),
    params:
        spec=spec(PROTECTIONS, "protection"),
        code=code(PROTECTIONS, protections, "protection"),
        data=lambda wildcards: LAYOUT.data(cell(wildcards)),
        class_images=CLASS_IMAGES / "class",
        model=literal(MODEL_JSON),
        prompts=literal(PROMPTS_JSON),
        seed=EXPERIMENT.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench protect {params.spec:q} --model {params.model:q} "
        "--instance {params.data:q}/set_B --surrogate {params.data:q}/set_A "
        "--class-images {params.class_images:q} --out {params.out:q} "
        "--prompts {params.prompts:q} --identity {wildcards.identity:q} --seed {params.seed} "
        "--threads {threads} --scratch {params.scratch:q} 2> {log:q}"
