"""Stage `init_death`: counts the latents born dead in a block of layers, and predicts them for other sizes."""

from saelib.init_death.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("init_death", run)
