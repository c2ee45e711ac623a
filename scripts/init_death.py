"""Runs stage `init_death`: counts latents that are dead at initialization, and predicts them for other sizes."""

from saelib.init_death.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("init_death", run)
