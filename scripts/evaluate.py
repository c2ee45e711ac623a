"""Runs stage `evaluate`: measures the SAEs of a model's layers on held-out examples."""

from saelib.evaluation.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("evaluate", run)
