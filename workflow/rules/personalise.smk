# Weights are the largest files of a study and are read once: unless they are kept, the job that
# trains them samples too.
KEEP = EXPERIMENT.keep_weights
TRAINING = {k: json.dumps(trainer.training_spec()) for k, trainer in TRAINERS.items()}


rule personalise:
    input:
        photos=manifest(LAYOUT.purified(W)),
        class_images=training_inputs,
    output:
        manifest((LAYOUT.personalised if KEEP else LAYOUT.generated)(W)),
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
        spec=by_label("trainer", TRAINING) if KEEP else spec(TRAINERS, "trainer"),
        code=code(TRAINERS, trainers, "trainer"),
        photos=subpath(input.photos, parent=True),
        class_images=CLASS_IMAGES / "class",
        model=literal(MODEL_JSON),
        weights=MODEL_DIGEST,
        prompts=literal(TRAINING_PROMPTS_JSON if KEEP else PROMPTS_JSON),
        sampling=literal(*([] if KEEP else [f"--sampling={SAMPLING_JSON}"])),
        sampling_code=literal(*([] if KEEP else [SAMPLING_CODE])),
        seed=EXPERIMENT.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench personalise {params.spec:q} --model {params.model:q} "
        "--instance {params.photos:q} --class-images {params.class_images:q} "
        "--prompts {params.prompts:q} {params.sampling:q} --out {params.out:q} "
        "--identity {wildcards.identity:q} --seed {params.seed} --threads {threads} "
        "--scratch {params.scratch:q} 2> {log:q}"
