"""Runs stage `extract`: writes activations of one model's layers, from one forward pass, to stores."""

from saelib.pipeline.jobs import run_job
from saelib.pipeline.one_pass import run

if __name__ == "__main__":
    run_job("extract", run)
