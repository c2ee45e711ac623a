"""Runs stage `init_death`: counts the latents that are dead at initialization on a block of layers."""

from saelib.init_death.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("init_death", run)
