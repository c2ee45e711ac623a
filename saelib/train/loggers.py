"""Copies of the rows of history.parquet for TensorBoard, trackio or wandb, written while training runs.

A run that resumes after it was killed writes its whole history again into a log that was emptied first, so no row is
there twice.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from saelib.errors import UserError
from saelib.train.sweep import RunningSweep

Kind = Literal["none", "tensorboard", "trackio", "wandb"]
Row = Mapping[str, Any]
PROJECT = "saelib"
PLACE = ("peak_learning_rate", "step")


class Log(Protocol):
    """A log that takes rows."""

    def write(self, rows: Sequence[Row]) -> None:
        """The rows of one step, one for each learning rate, with the columns of history.parquet."""
        ...

    def close(self) -> None:
        """Waits until everything has been written."""
        ...


@contextmanager
def open_log(kind: Kind, folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> Iterator[Log]:
    """An empty log of one sweep.

    Args:
        kind: The kind of log; its package's own variables (WANDB_MODE=offline, TRACKIO_DIR, …) are respected.
        folder: Folder for what the log keeps on this machine; emptied.
        name: Name of the sweep in the log.
        run_id: Identifier that stays the same when a sweep resumes.
        settings: Shown next to the curves.

    Raises:
        UserError: if the package is not installed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        match kind:
            case "none":
                log: Log = _NoLog()
            case "tensorboard":
                log = _TensorBoard(folder)
            case "trackio":
                log = _Trackio(name, settings)
            case "wandb":
                log = _Wandb(folder, name, run_id, settings)
    except ImportError as error:
        raise UserError(f"train.log_to: '{kind}' is not installed ({error}): pip install {kind}") from None
    try:
        yield log
    finally:
        log.close()


class LogWriter:
    """An observer that writes the rows of a sweep's history to a log, each once."""

    def __init__(self, log: Log) -> None:
        """`log`: empty."""
        self._log, self._written = log, -1

    def observe(self, sweep: RunningSweep) -> None:
        """Writes the rows that were recorded since the last call, step by step."""
        if max(run.history[-1]["step"] for run in sweep.runs) == self._written:
            return
        rows = [row for run in sweep.runs for row in run.history if row["step"] > self._written]
        for step in sorted({row["step"] for row in rows}):
            self._log.write([row for row in rows if row["step"] == step])
            self._written = step


class _NoLog:
    def write(self, rows: Sequence[Row]) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard:
    """One TensorBoard run for each learning rate, so that their curves share a chart."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # fails here if tensorboard is missing

        self._make, self._folder = SummaryWriter, folder
        self._writers: dict[float, Any] = {}

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            rate = row["peak_learning_rate"]
            if rate not in self._writers:
                self._writers[rate] = self._make(str(self._folder / f"rate_{rate:g}"))
            for name, value in _figures(row).items():
                self._writers[rate].add_scalar(name, value, row["step"])

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Trackio:
    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        try:
            earlier = [run for run in trackio.Api().runs(PROJECT) if run.name == name]
        except ValueError:  # there is no such project yet
            earlier = []
        for run in earlier:
            run.delete()
        self._run = trackio.init(project=PROJECT, name=name, config=dict(settings), embed=False)

    def write(self, rows: Sequence[Row]) -> None:
        self._run.log(_by_rate(rows), step=rows[0]["step"])

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        folder.mkdir(parents=True)
        # A run of this id that is on the server already keeps its rows: wandb drops steps that it has.
        self._run = wandb.init(
            project=PROJECT,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            reinit="create_new",  # a plain second call in a process gives the first run again
        )

    def write(self, rows: Sequence[Row]) -> None:
        self._run.log(_by_rate(rows), step=rows[0]["step"])

    def close(self) -> None:
        self._run.finish()


def _figures(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in PLACE and value is not None}


def _by_rate(rows: Sequence[Row]) -> dict[str, float]:
    """One flat mapping: 'rate 0.001/mse' -> value."""
    return {
        f"rate {row['peak_learning_rate']:g}/{name}": value for row in rows for name, value in _figures(row).items()
    }
