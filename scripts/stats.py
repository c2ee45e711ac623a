"""Runs stage `stats`: computes gamma, rank, spectrum and centers of a block of layers."""

from saelib.pipeline.jobs import run_job
from saelib.stats.stage import run

if __name__ == "__main__":
    run_job("stats", run)
