"""Runs stage `extract`: writes activations of one model's layers, from one forward pass, to stores."""

from saelib.extract.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("extract", run)
