"""Runs stage `train`: trains SAEs of one variant on one layer, or of several in one pass, at all learning rates."""

from saelib.pipeline.jobs import run_job
from saelib.train.stage import run

if __name__ == "__main__":
    run_job("train", run)
