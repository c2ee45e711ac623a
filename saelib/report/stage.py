"""Stage `report`: every result of the suite as tables, figures and a page."""

from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.report import run as build

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job


def run(config: Config, job: "Job") -> None:
    """Makes the report."""
    build(config, job.targets[0].key)
