"""Runs stage `report`: writes the tables, the figures and the page."""

from saelib.pipeline.jobs import run_job
from saelib.report.stage import run

if __name__ == "__main__":
    run_job("report", run)
