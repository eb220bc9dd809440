rule protect:
    input:
        sources("protect"),
    output:
        manifest(LAYOUT.protected(W)),
    log:
        LAYOUT.log("protect", W),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
    params:
        benchmark=str(LAYOUT.benchmark("protect", W)),
        spec=spec(PROTECTIONS, "protection"),
        photos=places("protect"),
        model=options(PROTECTIONS, "protection", made_on),
        scratch=SCRATCH,
        out=subpath(output[0], parent=True),
    shell:
        "cloakbench --benchmark {params.benchmark:q} "
        "protect {params.spec:q} {params.model:q} "
        "{params.photos:q} --out {params.out:q} --force "
        "--identity {wildcards.identity:q} --seed {wildcards.seed} "
        "--threads {threads} --scratch {params.scratch:q} > {log:q} 2>&1"


ruleorder: protect_quick > protect


use rule protect as protect_quick with:
    wildcard_constraints:
        protection=one_of(quick(PROTECTIONS)),
    localrule: True
    resources:
        gpu=0,
