WEIGHTS = LAYOUT.personalised(W)
TRAINING = {k: json.dumps(trainer.training_spec()) for k, trainer in TRAINERS.items()}


rule personalise:
    input:
        photos=manifest(LAYOUT.purified(W)),
        class_images=manifest(CLASS_IMAGES),
    output:
        directory(WEIGHTS) if EXPERIMENT.keep_weights else temp(directory(WEIGHTS)),
    log:
        LAYOUT.log("personalise", W),
    benchmark:
        LAYOUT.benchmark("personalise", W)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        spec=by_label("trainer", TRAINING),
        code=code(TRAINERS, trainers, "trainer"),
        photos=subpath(input.photos, parent=True),
        class_images=CLASS_IMAGES / "class",
        model=literal(MODEL_JSON),
        prompts=literal(PROMPTS_JSON),
        seed=EXPERIMENT.seed,
        scratch=SCRATCH,
    shell:
        "cloakbench personalise {params.spec:q} --model {params.model:q} "
        "--instance {params.photos:q} --class-images {params.class_images:q} --out {output:q} "
        "--prompts {params.prompts:q} --identity {wildcards.identity:q} --seed {params.seed} "
        "--threads {threads} --scratch {params.scratch:q} 2> {log:q}"
