"""Measures dead latents of sparse autoencoders over many models. See README.md and docs/architecture.md."""

from snakemake.exceptions import WorkflowError

from saelib.errors import UserError
from saelib.pipeline.workflow import Workflow

try:
    SUITE = Workflow(
        workflow.config_settings.configfiles,
        workflow.config_settings.config,
        default="workflow_config.yaml",
        controls=workflow.is_main_process,
        home=workflow.basedir,
    )
except UserError as mistake:
    raise WorkflowError(str(mistake))

SUITE.share_gpus(workflow)

# This folder holds the plan of one run, the markers of its finished jobs, its logs and timings, but not its results.
RUN = f"{SUITE.results}/runs/{{run}}"


wildcard_constraints:
    run=r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}",
    job=r"[A-Za-z0-9._+/-]+",


onstart:
    SUITE.start(workflow)


onerror:
    SUITE.report_unfinished()


localrules:
    all,
    theory,


rule all:
    default_target: True
    input:
        SUITE.everything(workflow),


include: "rules/extract.smk"
include: "rules/stats.smk"
include: "rules/init_death.smk"
include: "rules/theory.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/features.smk"
include: "rules/lab.smk"
include: "rules/report.smk"
