"""Stage `lab`: computes some cells of one experiment and publishes each as soon as it is done."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelib.config import Config
from saelib.errors import UserError
from saelib.files.sealed import read_sealed, write_result
from saelib.lab import KINDS
from saelib.lab.checkpoint import Checkpoint
from saelib.lab.result import CellResult, save_cell
from saelib.progress import Advance, progress

if TYPE_CHECKING:
    from saelib.config.lab import Cell
    from saelib.pipeline.plan import Job
    from saelib.pipeline.targets import Target

log = logging.getLogger(__name__)

Rows = Sequence[dict[str, float | None]]


@dataclass(frozen=True)
class Outbox:
    """Takes the results of a job: publishes finished cells, and keeps finished seeds of cells that are not."""

    targets: "Mapping[str, Target]"
    """Name of a cell -> its target."""
    advance: Advance
    """Is told of every published cell."""

    def publish(self, cell: "Cell", result: CellResult) -> None:
        """Publishes a cell and removes what was kept of its seeds."""
        target = self.targets[cell.name]
        save_cell(result, target.output, target.key)
        for file in target.output.parent.glob(f"{target.output.stem}.seed_*.json"):
            file.unlink()
        for folder in target.output.parent.glob(f"{target.output.stem}.checkpoint_*"):
            shutil.rmtree(folder, ignore_errors=True)
        self.advance(1, note=cell.name)

    def keep(self, cell: "Cell", seed: int, rows: Rows) -> None:
        """Keeps the rows of one seed, so that a killed job need not compute them again."""
        write_result(self._file(cell, seed), self.targets[cell.name].key, {"rows": list(rows)})

    def kept(self, cell: "Cell", seed: int) -> list[dict[str, float | None]] | None:
        """Returns the rows that were kept of a seed; None if there are none, or if they have another key."""
        try:
            content: dict[str, Any] = read_sealed(self._file(cell, seed))
        except UserError:
            return None
        return content["rows"] if content["key"] == self.targets[cell.name].key else None

    def checkpoint(self, cells: "Sequence[Cell]", seed: int) -> Checkpoint:
        """Returns the place where the SAEs of these cells are saved while they train on one stream."""
        keys = json.dumps([[cell.name, self.targets[cell.name].key] for cell in cells] + [[seed]])
        key = hashlib.sha256(keys.encode()).hexdigest()
        output = self.targets[cells[0].name].output
        return Checkpoint(output.with_name(f"{output.stem}.checkpoint_{key[:12]}"), key)

    def _file(self, cell: "Cell", seed: int) -> Path:
        output = self.targets[cell.name].output
        return output.with_name(f"{output.stem}.seed_{seed}.json")


def run(config: Config, job: "Job") -> None:
    """Computes each target's cell. A killed job keeps the cells and seeds that it has finished, and checkpoints.

    Raises:
        UserError: If the config has no such cell.
    """
    experiment = config.experiments[job.targets[0].experiment]
    targets = {target.cell: target for target in job.targets}
    cells = [cell for cell in experiment.cells() if cell.name in targets]
    if missing := targets.keys() - {cell.name for cell in cells}:
        names = ", ".join(sorted(missing))
        raise UserError(f"experiments.{job.targets[0].experiment}: has no cell {names}; start the run again")
    with progress(f"lab {job.name}", len(cells), "cells", log) as advance:
        import_module(KINDS[experiment.kind]).run_cells(experiment, cells, config.seed, Outbox(targets, advance))
