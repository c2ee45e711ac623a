"""Stage `lab`: computes some cells of one experiment and publishes each as soon as it is done."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.lab import KINDS
from saelib.lab.result import CellResult, save_cell
from saelib.progress import progress

if TYPE_CHECKING:
    from saelib.config.lab import Cell
    from saelib.pipeline.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Computes each target's cell. A killed job keeps the cells that it has published."""
    name = job.targets[0].experiment
    experiment = config.experiments[name]
    cells = {cell.name: cell for cell in experiment.cells()}
    targets = {target.cell: target for target in job.targets}
    with progress(f"lab {job.name}", len(targets), "cells", log) as advance:

        def publish(cell: "Cell", result: CellResult) -> None:
            target = targets[cell.name]
            save_cell(result, target.output, target.key)
            advance(1, note=cell.name)

        kind = import_module(KINDS[experiment.kind])
        kind.run_cells(experiment, [cells[target] for target in targets], config.seed, publish)
