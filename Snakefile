# The whole study: protect -> purify -> personalise -> sample -> score -> tables and report.
# `snakemake` runs config.yaml; `snakemake --configfile config/<name>.yaml` lays that file over it.
from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/protect.smk"
include: "workflow/rules/purify.smk"
include: "workflow/rules/personalise.smk"


if CONFIG.keep_weights:

    include: "workflow/rules/sample.smk"


include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        TABLES / "summary.csv",
        REPORT,
    localrule: True


onstart:
    # Snakemake's own locks survive a SIGKILL, so profiles set `nolock`; this one does not.
    try:
        holder = hold(LAYOUT.root / ".running")
    except CloakBenchError as error:
        sys.exit(f"error: {error}")
    if holder:
        sys.exit(
            f"error: {LAYOUT.root}: {holder} runs here. Wait until it ends, or stop it."
        )
    logger.info("Job times are estimated.", extra={"durations": durations()})
    if workflow.local_exec and not IN_CONDA:
        forks.start()
    # Snakemake starts 100 jobs a second at most, if nobody says otherwise, and for that looks at all
    # jobs that are ready again, a second after each look: after hundreds it does nothing else.
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    sweep(SCRATCH)
    made = Expected(EXPERIMENT)  # nothing older, after a run of some rules alone
    if made.has_tables():
        print((TABLES / "summary.txt").read_text(encoding="utf-8"))
    if made.has_report():
        print(f"report: {REPORT}")


onerror:
    if shutil.disk_usage(LAYOUT.root).free < 2**20:  # then the logs may be empty
        full = OSError(errno.ENOSPC, "", str(LAYOUT.root))
        print(f"error: {explain_os_error(full)}", file=sys.stderr)
