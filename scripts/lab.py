"""Runs stage `lab`: computes some cells of an experiment on synthetic activations."""

from saelib.lab.stage import run
from saelib.pipeline.jobs import run_job

if __name__ == "__main__":
    run_job("lab", run)
