rule data:
    input:
        photos,
    output:
        manifest(LAYOUT.data(W)),
    log:
        LAYOUT.log("data", W),
    priority: 100
    localrule: True
    conda:
        ENVIRONMENT
    params:
        benchmark=str(LAYOUT.benchmark("data", W)),
        dataset=CONFIG.dataset_spec.path,
        out=subpath(output[0], parent=True),
        resolution=CONFIG.model_spec.resolution,
        crop=literal(f"--crop={CONFIG.dataset_spec.crop}", f"--faces={FACES_JSON}"),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "data {params.dataset:q} {wildcards.identity:q} --out {params.out:q} --force "
        "--resolution {params.resolution} {params.crop:q} > {log:q} 2>&1"


rule class_images:
    input:
        sources("class_images"),
    output:
        manifest(CLASS_IMAGES),
    log:
        LAYOUT.log("class_images", W),
    priority: 90
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        benchmark=str(LAYOUT.benchmark("class_images", W)),
        sampling=literal(CLASS_SAMPLING_JSON),
        model=by_label("model", MODELS),
        prompts=literal(CLASS_PROMPTS_JSON),
        seed=CLASS_SEED,
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "class-images --model {params.model:q} --out {params.out:q} --force "
        "--sampling {params.sampling:q} --prompts {params.prompts:q} "
        "--seed {params.seed} --threads {threads} --scratch {params.scratch:q} > {log:q} 2>&1"
