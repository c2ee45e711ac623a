"""Runs experiments without a pipeline."""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from saelib.config.lab import Cell
from saelib.config.load import check_config
from saelib.lab import KINDS
from saelib.lab.checkpoint import Checkpoint
from saelib.lab.result import CellResult
from saelib.lab.stage import Outbox, Rows


class Memory(Outbox):
    """An outbox that keeps results in memory."""

    def __init__(self) -> None:
        """Starts empty."""
        super().__init__({}, lambda *_, **__: None)
        self.folder = TemporaryDirectory()
        self.results: dict[str, CellResult] = {}
        self.seeds: dict[tuple[str, int], Rows] = {}

    def publish(self, cell: Cell, result: CellResult) -> None:
        self.results[cell.name] = result

    def keep(self, cell: Cell, seed: int, rows: Rows) -> None:
        self.seeds[cell.name, seed] = rows

    def checkpoint(self, cells: Sequence[Cell], seed: int) -> Checkpoint:
        key = f"{'_'.join(cell.digest for cell in cells)}_{seed}"
        return Checkpoint(Path(self.folder.name) / hashlib.sha256(key.encode()).hexdigest(), key)

    def kept(self, cell: Cell, seed: int) -> Any:
        return self.seeds.get((cell.name, seed))


def run(**experiment: Any) -> dict[str, CellResult]:
    """Computes all cells of an experiment, by name."""
    return run_into(Memory(), **experiment)


def run_into(outbox: Memory, /, **experiment: Any) -> dict[str, CellResult]:
    """Computes all cells of an experiment, by name, with what the outbox has kept."""
    found = check_config({"experiments": {"e": {"shows": "x"} | experiment}}, "test").experiments["e"]
    import_module(KINDS[found.kind]).run_cells(found, list(found.cells()), 0, outbox)
    return outbox.results


def mean(result: CellResult, column: str, record: int = -1) -> float:
    """Returns the mean over seeds of a column, in one record."""
    values = [value for value in result.measured[column][record] if value is not None]
    return sum(values) / len(values)
