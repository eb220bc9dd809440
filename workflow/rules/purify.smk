rule purify:
    input:
        sources("purify"),
    output:
        manifest(LAYOUT.purified(W)),
    log:
        LAYOUT.log("purify", W),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        benchmark=str(LAYOUT.benchmark("purify", W)),
        spec=spec(PURIFIERS, "purification"),
        photos=places("purify"),
        model=options(PURIFIERS, "purification", lambda label: {"model": MODEL_JSON}),
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "purify {params.spec:q} {params.model:q} "
        "{params.photos:q} --out {params.out:q} --force "
        "--identity {wildcards.identity:q} --seed {wildcards.seed} --threads {threads} "
        "--scratch {params.scratch:q} > {log:q} 2>&1"


ruleorder: purify_quick > purify


use rule purify as purify_quick with:
    wildcard_constraints:
        purification=one_of(quick(PURIFIERS)),
    localrule: True
    resources:
        gpu=0,
