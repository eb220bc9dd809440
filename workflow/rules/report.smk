SCORES = [LAYOUT.scores(cell) for cell in CELLS]
DISTANCES = sorted({LAYOUT.distances(cell) for cell in CELLS})


rule tables:
    input:
        SCORES,
        DISTANCES,
    output:
        TABLES / "summary.csv",
        TABLES / "summary.md",
        TABLES / "identities.csv",
        TABLES / "images.csv",
        TABLES / "contrasts.csv",
        TABLES / "distances.csv",
    log:
        LOGS / "tables.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
        code=code_digest("cloakbench.tables.experiment", "cloakbench.tables.summary"),
    shell:
        "cloakbench tables {params.config:q} > {log:q} 2>&1"


rule report:
    input:
        TABLES / "summary.csv",
    output:
        LAYOUT.report(EXPERIMENT.experiment),
    log:
        LOGS / "report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=literal(CONFIG_JSON),
        code=code_digest("cloakbench.report"),
    shell:
        "cloakbench report {params.config:q} > {log:q} 2>&1"
