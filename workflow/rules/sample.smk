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
        manifest(LAYOUT.personalised(W)),
    output:
        manifest(LAYOUT.generated(W)),
    log:
        LAYOUT.log("sample", W),
    benchmark:
        LAYOUT.benchmark("sample", W)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        weights=subpath(input[0], parent=True),
        prompts=literal(*PROMPT_OPTIONS),
        trainer=by_label("trainer", TRAINER_OPTIONS),
        sampling=literal(SAMPLING_JSON),
        model=literal(MODEL_JSON),
        model_weights=MODEL_DIGEST,
        seed=CONFIG.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
        code=code_of("cloakbench.stages.sample", CONFIG.model_spec),
    shell:
        "cloakbench sample --weights {params.weights:q} {params.prompts:q} {params.trainer:q} "
        "--sampling {params.sampling:q} --model {params.model:q} --out {params.out:q} "
        "--identity {wildcards.identity:q} --seed {params.seed} --threads {threads} "
        "--scratch {params.scratch:q} 2> {log:q}"
