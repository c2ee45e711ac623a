"""A sweep in the middle of its training, as a folder: what a job that was killed goes on from."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.publish import published_folder, remove_drafts
from saelib.files.sealed import seal, unseal
from saelib.train.batches_from_model import START, Position
from saelib.train.history import Run

log = logging.getLogger(__name__)

KEPT = 2
STATE = "state.json"


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to."""

    key: str
    settings: Mapping[str, Any]
    """What decides the key, as far as it can be said in words (JSON); code and activations are in the key alone."""

    def difference(self, key: str, settings: Mapping[str, Any]) -> str:
        """What became of the settings of something with another key: 'train.steps: 100 -> 200'."""
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


class Reached(NamedTuple):
    """How far a sweep has come."""

    step: int = 0
    """Steps that are done."""
    position: Position = START
    """Where a stream goes on, for a sweep that trains from one."""


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint; its tensors are still on disk."""

    folder: Path
    key: str
    settings: dict[str, Any]
    step: int
    rates: list[dict[str, Any]]
    position: dict[str, int]

    def load_into(self, runs: Sequence[Run]) -> None:
        """Bring `runs` to where this left them. Raises `ValueError`, before anything changed, where it is damaged."""
        files = [self.folder / f"rate_{number}.safetensors" for number in range(len(runs))]
        for file, rate in zip(files, self.rates, strict=True):
            if rate["sha256"] is not None and file_sha256(file) != rate["sha256"]:
                raise ValueError(f"the checksum of {file.name} is wrong")
        for file, rate, run in zip(files, self.rates, runs, strict=True):
            run.status, run.history = rate["status"], rate["history"]
            if rate["sha256"] is not None:
                run.trainer.load_state_dict(load_file(file))


class Checkpoints:
    """The checkpoints of one sweep: `{root}/{of the key}/step_00001000/`, the last two of them.

    Each holds `state.json` (key, settings, step, a stream's position, each rate's status, history and checksum) and,
    for each rate that is still at work, `rate_{number}.safetensors`. A checkpoint appears whole or not at all. Each key
    has a folder of its own, so that training never goes on from what another config left.
    """

    def __init__(self, root: Path, identity: Identity) -> None:
        """`root`: a folder for checkpoints alone, of any config."""
        self.root, self.identity = root, identity
        self.folder = root / hashlib.sha256(identity.key.encode()).hexdigest()[:12]

    def save(self, runs: Sequence[Run], reached: Reached) -> None:
        """Publish the state of `runs`, then remove all but the last two.

        Raises:
            UserError: where it cannot be written, as on a full disk; the earlier checkpoints are still there.
        """
        path = self.folder / f"step_{reached.step:08d}"
        try:
            with published_folder(path) as draft:
                rates = [_save_run(run, draft / f"rate_{number}.safetensors") for number, run in enumerate(runs)]
                identity = {"key": self.identity.key, "settings": self.identity.settings}
                place = {"step": reached.step, "position": asdict(reached.position)}
                state = json.dumps(identity | place | {"rates": rates}, allow_nan=False)
                (draft / STATE).write_text(seal(state))
        except (OSError, UserError) as error:
            raise UserError(
                f"{path}: the checkpoint could not be written ({error}); what was saved before is kept, and training "
                f"goes on from there when it is started again"
            ) from None
        for old in _found(self.folder)[KEPT:]:
            shutil.rmtree(old.folder, ignore_errors=True)  # another job of the same sweep may be doing so too

    def resume(self, runs: Sequence[Run]) -> Reached:
        """Bring `runs` to where the newest sound checkpoint left them; the beginning where there is none.

        Raises:
            UserError: where a checkpoint of another config lies in this one's place, with the difference.
        """
        remove_drafts(self.folder)
        for checkpoint in _found(self.folder):
            if checkpoint.key != self.identity.key:
                difference = self.identity.difference(checkpoint.key, checkpoint.settings)
                raise UserError(f"{checkpoint.folder}: belongs to another config ({difference}); remove it")
            try:
                checkpoint.load_into(runs)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: damaged (%s); training goes on from an earlier point", checkpoint.folder, error)
            else:
                return Reached(checkpoint.step, Position(**checkpoint.position))
        return Reached()

    def warn_of_others(self) -> None:
        """Say where another config left checkpoints, and in what it differs: they stay until `remove`."""
        for folder in sorted(self.root.glob("*")):
            if folder != self.folder and (left := _found(folder)):
                difference = self.identity.difference(left[0].key, left[0].settings)
                log.warning("%s: not continued, it belongs to another config (%s)", left[0].folder, difference)

    def remove(self) -> None:
        """Delete every checkpoint, those of other configs too: the sweep is done.

        What another job that makes the same sweep is just writing stays, and is that job's: of two controlling
        processes one after the other, the first may have left its job at work.
        """
        for folder in (*self.folder.glob("[!.]*"), *self.root.glob("*")):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.folder, self.root):
            with suppress(OSError):  # it is not empty then, or was never made
                folder.rmdir()


def _save_run(run: Run, file: Path) -> dict[str, Any]:
    record = {"learning_rate": run.learning_rate, "status": run.status, "history": run.history}
    if run.status == "diverged":
        return record | {"sha256": None}
    save_file(run.trainer.state_dict(), file)
    return record | {"sha256": file_sha256(file)}


def _found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder that can be read, newest first: by the step in the file, not by name."""
    found = []
    for file in sorted(folder.glob(f"[!.]*/{STATE}")):
        try:
            found.append(Checkpoint(file.parent, **unseal(file.read_text())))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: damaged (%s)", file, error)
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)
