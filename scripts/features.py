"""Runs stage `features`: writes the pages of the latents of a layer's SAEs."""

from saelib.features.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("features", run)
