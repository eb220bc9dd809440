# Weights are the largest files of a study and are read once: unless they are kept, the job that
# trains them samples too.
if CONFIG.keep_weights:
    TRAINED = LAYOUT.personalised
    TRAINING = {k: trainer.training_spec() for k, trainer in TRAINERS.items()}
    TRAINING_PROMPTS, SAMPLING = TRAINING_PROMPTS_JSON, []
else:
    TRAINED = LAYOUT.generated
    TRAINING = {k: trainer.spec() for k, trainer in TRAINERS.items()}
    TRAINING_PROMPTS, SAMPLING = PROMPTS_JSON, [f"--sampling={SAMPLING_JSON}"]


rule personalise:
    input:
        sources("personalise"),
    output:
        manifest(TRAINED(W)),
    log:
        LAYOUT.log("personalise", W),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        benchmark=str(LAYOUT.benchmark("personalise", W)),
        spec=by_label("trainer", {k: json.dumps(s) for k, s in TRAINING.items()}),
        photos=places("personalise"),
        model=literal(MODEL_JSON),
        prompts=literal(TRAINING_PROMPTS),
        sampling=literal(*SAMPLING),
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "personalise {params.spec:q} --model {params.model:q} "
        "{params.photos:q} "
        "--prompts {params.prompts:q} {params.sampling:q} --out {params.out:q} --force "
        "--identity {wildcards.identity:q} --seed {wildcards.seed} --threads {threads} "
        "--scratch {params.scratch:q} > {log:q} 2>&1"
