SCORES = [LAYOUT.scores(cell) for cell in CELLS]
DISTANCES = sorted({LAYOUT.distances(cell) for cell in CELLS})


CLAIMS = [CONFIG.claims] if CONFIG.claims else []
VERDICTS = [TABLES / f"verdicts.{kind}" for kind in ("csv", "md", "tex") if CLAIMS]


rule tables:
    input:
        SCORES,
        DISTANCES,
        CLAIMS,
    output:
        VERDICTS,
        shown(TABLES / "summary.csv", "Tables", "cells"),
        TABLES / "summary.md",
        TABLES / "summary.tex",
        shown(TABLES / "contrasts.csv", "Tables", "differences to the controls"),
        shown(TABLES / "identities.csv", "Tables", "identities in each cell"),
        shown(TABLES / "images.csv", "Tables", "images"),
        shown(TABLES / "distances.csv", "Tables", "photos against their originals"),
        shown(TABLES / "photos.csv", "Tables", "what methods do to photos"),
        TABLES / "provenance.json",
        shown(TABLES / "provenance.md", "Provenance", "where the numbers come from"),
    log:
        LAYOUT.experiment_log("tables", EXPERIMENT.name),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
        code=[
            code_of("cloakbench.tables", *METRICS, *PHOTO_METRICS),
            code_of("cloakbench.experiment.provenance"),
        ],
    shell:
        "cloakbench tables {params.config:q} > {log:q} 2>&1"


rule report:
    input:
        TABLES / "summary.csv",
    output:
        shown(LAYOUT.report(EXPERIMENT.name), "Results", "page"),
        shown(LAYOUT.figure(EXPERIMENT.name), "Results", "figure"),
    log:
        LAYOUT.experiment_log("report", EXPERIMENT.name),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
        code=code_of("cloakbench.report", *METRICS, *PHOTO_METRICS),
    shell:
        "cloakbench report {params.config:q} > {log:q} 2>&1"
