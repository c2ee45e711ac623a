"""Runs stage `theory`: predicts death by closed forms for every layer."""

from saelib.pipeline.jobs import run_job
from saelib.theory.stage import run

if __name__ == "__main__":
    run_job("theory", run)
