# Included where weights are kept.
PROMPT_OPTIONS = [
    f"--prompt={key}={text}" for key, text in CONFIG.prompts.sample_prompts.items()
]
TRAINER_OPTIONS = {
    label: [
        f"--{key.replace('_', '-')}={text}" for key, text in trainer.sampling().items()
    ]
    for label, trainer in TRAINERS.items()
}


rule sample:
    input:
        sources("sample"),
    output:
        manifest(LAYOUT.generated(W)),
    log:
        LAYOUT.log("sample", W),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        benchmark=str(LAYOUT.benchmark("sample", W)),
        weights=places("sample"),
        prompts=literal(*PROMPT_OPTIONS),
        trainer=by_label("trainer", TRAINER_OPTIONS),
        sampling=literal(SAMPLING_JSON),
        model=literal(MODEL_JSON),
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "sample {params.weights:q} {params.prompts:q} {params.trainer:q} "
        "--sampling {params.sampling:q} --model {params.model:q} --out {params.out:q} --force "
        "--identity {wildcards.identity:q} --seed {wildcards.seed} --threads {threads} "
        "--scratch {params.scratch:q} > {log:q} 2>&1"
