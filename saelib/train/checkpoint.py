"""A sweep in the middle of its training, as a folder: a job that was killed resumes from it."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.hashed_tensors import save_hashed
from saelib.files.publish import published_folder, remove_drafts
from saelib.files.sealed import seal, unseal
from saelib.train.batches_from_model import Position
from saelib.train.sweep import Destination, Run, RunningSweep

log = logging.getLogger(__name__)

KEPT = 2
STATE = "state.json"


@dataclass(frozen=True)
class Identity:
    """The config, code and data that a checkpoint belongs to."""

    key: str
    settings: Mapping[str, Any]
    """The settings in the key, by name (JSON); code and activations are in the key alone."""

    def difference(self, key: str, settings: Mapping[str, Any]) -> str:
        """The changes since settings with another key, in words: 'train.steps: 100 -> 200'."""
        old, new = dict(_flat(settings)), dict(_flat(self.settings))
        changed = [
            f"{name}: {old.get(name, '(none)')} -> {new.get(name, '(none)')}"
            for name in dict.fromkeys((*old, *new))
            if old.get(name) != new.get(name)
        ]
        return "; ".join(changed) or f"the code or the activations have changed (key {key[:12]} -> {self.key[:12]})"


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, list(settings) if isinstance(settings, tuple) else settings


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint; its tensors are still on disk."""

    folder: Path
    key: str
    settings: dict[str, Any]
    step: int
    rates: list[dict[str, Any]]
    position: dict[str, int]

    def load_into(self, sweep: RunningSweep) -> None:
        """Brings a sweep to where this left it. Raises `ValueError`, before anything changes, if it is damaged."""
        files = [self.folder / f"rate_{number}.safetensors" for number in range(len(sweep.runs))]
        for file, rate in zip(files, self.rates, strict=True):
            if rate["sha256"] is not None and file_sha256(file) != rate["sha256"]:
                raise ValueError(f"the checksum of {file.name} is wrong")
        for file, rate, run in zip(files, self.rates, sweep.runs, strict=True):
            run.status, run.history = rate["status"], rate["history"]
            if rate["sha256"] is not None:
                run.trainer.load_state_dict(load_file(file))
        sweep.steps_done, sweep.position = self.step, Position(**self.position)


class Checkpoints:
    """The checkpoints of one sweep: `{root}/{of the key}/step_00001000/`, the last two of them.

    Each holds `state.json` (key, settings, step, a stream's position, each rate's status, history and checksum) and,
    for each rate that has not diverged, `rate_{number}.safetensors`. A checkpoint appears whole or not at all. Each key
    has a folder of its own, so training never resumes from what another config left.
    """

    def __init__(self, root: Path, identity: Identity) -> None:
        """`root`: a folder for checkpoints alone, of any config."""
        self.root, self.identity = root, identity
        self.folder = root / hashlib.sha256(identity.key.encode()).hexdigest()[:12]
        self._last = time.monotonic()

    def observe(self, sweep: RunningSweep) -> None:
        """Saves every `checkpoint_minutes`, or every `checkpoint_every` steps if the config says how many.

        The sweep is also saved when the last learning rate has diverged: it is not tried again.
        """
        if self._is_due(sweep) or not sweep.alive:
            self.save(sweep)
            self._last = time.monotonic()

    def _is_due(self, sweep: RunningSweep) -> bool:
        every = sweep.config.checkpoint_every
        if every is not None:
            return sweep.steps_done % every == 0
        return time.monotonic() - self._last >= 60 * sweep.config.checkpoint_minutes

    def save(self, sweep: RunningSweep) -> None:
        """Publishes the state of a sweep, then removes all checkpoints but the last two.

        Raises:
            UserError: if it cannot be written, as on a full disk; the earlier checkpoints are still there.
        """
        path = self.folder / f"step_{sweep.steps_done:08d}"
        try:
            with published_folder(path) as draft:
                rates = [_save_run(run, draft / f"rate_{number}.safetensors") for number, run in enumerate(sweep.runs)]
                identity = {"key": self.identity.key, "settings": self.identity.settings}
                place = {"step": sweep.steps_done, "position": asdict(sweep.position)}
                state = json.dumps(identity | place | {"rates": rates}, allow_nan=False)
                (draft / STATE).write_text(seal(state))
        except (OSError, UserError) as error:
            raise UserError(
                f"{path}: the checkpoint could not be written ({error}); what was saved before is kept, and training "
                f"resumes from there when it is started again"
            ) from None
        for old in _found(self.folder)[KEPT:]:
            shutil.rmtree(old.folder, ignore_errors=True)  # another job of the same sweep may be doing so too

    def resume(self, sweep: RunningSweep) -> None:
        """Brings a sweep to where the newest sound checkpoint left it; without one it stays at its start.

        Raises:
            UserError: if a checkpoint of another config lies in this one's place; the message says how they differ.
        """
        remove_drafts(self.folder)
        for checkpoint in _found(self.folder):
            if checkpoint.key != self.identity.key:
                difference = self.identity.difference(checkpoint.key, checkpoint.settings)
                raise UserError(f"{checkpoint.folder}: belongs to another config ({difference}); remove it")
            try:
                checkpoint.load_into(sweep)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: damaged (%s); training resumes from an earlier point", checkpoint.folder, error)
            else:
                return

    def warn_of_others(self) -> None:
        """Warn of checkpoints that another config left, and say how it differs; they stay until `remove`."""
        for folder in sorted(self.root.glob("*")):
            if folder != self.folder and (left := _found(folder)):
                difference = self.identity.difference(left[0].key, left[0].settings)
                log.warning("%s: not continued, it belongs to another config (%s)", left[0].folder, difference)

    def remove(self) -> None:
        """Deletes every checkpoint, those of other configs too: the sweep is done.

        A checkpoint that another job of the same sweep is writing stays, and belongs to that job: a controlling process
        that was killed may have left its job running.
        """
        for folder in (*self.folder.glob("[!.]*"), *self.root.glob("*")):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.folder, self.root):
            with suppress(OSError):  # it is not empty then, or was never made
                folder.rmdir()


def checkpoints_of(sweep: RunningSweep, destination: Destination) -> Checkpoints:
    """The checkpoints below the folder of a sweep's results."""
    return Checkpoints(destination.folder / "checkpoints", Identity(destination.key, sweep.settings))


def _save_run(run: Run, file: Path) -> dict[str, Any]:
    record = {"learning_rate": run.learning_rate, "status": run.status, "history": run.history}
    if run.status == "diverged":
        return record | {"sha256": None}
    return record | {"sha256": save_hashed(run.trainer.state_dict(), file)}


def _found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder that can be read, newest first: by the step in the file, not by name."""
    found = []
    for file in sorted(folder.glob(f"[!.]*/{STATE}")):
        try:
            found.append(Checkpoint(file.parent, **unseal(file.read_text())))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: damaged (%s)", file, error)
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)
