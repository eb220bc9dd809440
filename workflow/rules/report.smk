OF_SOME = {
    "verdicts": CONFIG.claims,
    "seeds": CONFIG.seeds[1:],
    "prompts": len(CONFIG.prompts.sample) > 1,
}  # tables that not all have
SOME_TABLES = [
    TABLES / f"{name}.{kind}"
    for name, wanted in OF_SOME.items()
    for kind in ("csv", "md", "tex")
    if wanted
]


rule tables:
    input:
        scores,
    output:
        SOME_TABLES,
        shown(TABLES / "summary.csv", "Tables", "cells"),
        TABLES / "summary.md",
        TABLES / "summary.txt",
        TABLES / "summary.tex",
        shown(TABLES / "contrasts.csv", "Tables", "differences to the controls"),
        shown(TABLES / "identities.csv", "Tables", "identities in each cell"),
        shown(TABLES / "images.csv", "Tables", "images"),
        shown(TABLES / "distances.csv", "Tables", "photos against their originals"),
        shown(TABLES / "photos.csv", "Tables", "what methods do to photos"),
        shown(TABLES / "purifiers.csv", "Tables", "what purifications take"),
        TABLES / "purifiers.md",
        TABLES / "provenance.json",
        shown(TABLES / "provenance.md", "Provenance", "where the numbers come from"),
        manifest(TABLES),
    log:
        LAYOUT.experiment_log("tables", EXPERIMENT.name),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
    shell:
        "cloakbench tables {params.config:q} > {log:q} 2>&1"


rule report:
    input:
        tables,
    output:
        shown(REPORT, "Results", "page"),
        [
            shown(LAYOUT.figure(EXPERIMENT.name, figure.name), "Results", figure.title)
            for figure in figures(EXPERIMENT.stages)
        ],
        manifest(REPORT.parent),
    log:
        LAYOUT.experiment_log("report", EXPERIMENT.name),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
    shell:
        "cloakbench report {params.config:q} > {log:q} 2>&1"
