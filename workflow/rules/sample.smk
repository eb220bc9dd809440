PROMPT_OPTIONS = [
    f"--prompt={key}={text}" for key, text in EXPERIMENT.prompts.sample_prompts.items()
]


rule sample:
    input:
        LAYOUT.personalised(W),
    output:
        manifest(LAYOUT.generated(W)),
    log:
        LOGS
        / "{model}/{dataset}/{identity}/sample/{protection}/{purification}/{trainer}.log",
    benchmark:
        BENCHMARKS
        / "{model}/{dataset}/{identity}/sample/{protection}/{purification}/{trainer}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
    params:
        prompts=literal(PROMPT_OPTIONS),
        suffix=lambda wildcards: TRAINERS[wildcards.trainer].sampling()["suffix"],
        negative=lambda wildcards: TRAINERS[wildcards.trainer].sampling()[
            "negative_prompt"
        ],
        sampling=literal(SAMPLING_JSON),
        model=literal(MODEL_JSON),
        seed=EXPERIMENT.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
        code=code_digest("cloakbench.sampling", "cloakbench.diffusion"),
    shell:
        "cloakbench sample --weights {input:q} {params.prompts:q} --suffix={params.suffix:q} "
        "--negative-prompt={params.negative:q} --sampling {params.sampling:q} "
        "--model {params.model:q} --out {params.out:q} --identity {wildcards.identity:q} "
        "--seed {params.seed} --threads {threads} --scratch {params.scratch:q} 2> {log:q}"
