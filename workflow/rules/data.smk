rule data:
    input:
        photos,
    output:
        manifest(LAYOUT.data(W)),
    log:
        LAYOUT.log("data", W),
    benchmark:
        LAYOUT.benchmark("data", W)
    priority: 100
    localrule: True
    conda:
        ENVIRONMENT
    params:
        dataset=CONFIG.dataset_spec.path,
        out=subpath(output[0], parent=True),
        resolution=CONFIG.model_spec.resolution,
        photos=photo_digests,
        code=code_of("cloakbench.experiment.data"),
    shell:
        "cloakbench data {params.dataset:q} {wildcards.identity:q} --out {params.out:q} "
        "--resolution {params.resolution} 2> {log:q}"


rule class_images:
    output:
        manifest(CLASS_IMAGES),
    log:
        LAYOUT.log("class_images", CELLS[0]),
    benchmark:
        LAYOUT.benchmark("class_images", CELLS[0])
    priority: 90
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        sampling=literal(CLASS_SAMPLING_JSON),
        model=literal(MODEL_JSON),
        weights=MODEL_DIGEST,
        prompts=literal(CLASS_PROMPTS_JSON),
        seed=CONFIG.seed,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
        code=code_of("cloakbench.stages.sample", CONFIG.model_spec),
    shell:
        "cloakbench class-images --model {params.model:q} --out {params.out:q} "
        "--sampling {params.sampling:q} --prompts {params.prompts:q} "
        "--seed {params.seed} --threads {threads} --scratch {params.scratch:q} 2> {log:q}"
