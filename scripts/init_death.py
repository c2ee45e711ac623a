"""Stage `init_death`: features born dead in a block of layers, by preprocessing and seed."""

from saelib.init_death.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("init_death", run)
