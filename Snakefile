# The whole study: protect -> purify -> personalise -> sample -> score -> tables and report.
# `snakemake` runs config.yaml; `snakemake --configfile config/<name>.yaml` lays that file over it.
from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/protect.smk"
include: "workflow/rules/purify.smk"
include: "workflow/rules/personalise.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        TABLES / "summary.csv",
        LAYOUT.report(EXPERIMENT.experiment),
    localrule: True


onsuccess:
    shell("cat {TABLES}/summary.md 2> /dev/null || true")
