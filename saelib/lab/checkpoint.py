"""SAEs of an experiment in the middle of their training, saved from time to time, so that a killed job resumes."""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.publish import published_folder
from saelib.files.sealed import read_sealed, seal

if TYPE_CHECKING:
    from saelib.lab.trainees import Class

log = logging.getLogger(__name__)

Rows = list[dict[str, float | None]]
EVERY_SECONDS = 300.0
"""Seconds between two checkpoints of one stream."""
STATE, TENSORS = "state.json", "members.safetensors"


@dataclass
class Checkpoint:
    """The checkpoint of all SAEs of one stream, as a folder that appears whole or not at all."""

    folder: Path
    key: str
    """Key of everything that decides the training; a checkpoint with another key is not used."""
    _latest: float = field(default_factory=time.monotonic)

    def save_if_due(self, group: "Class", step: int, rows: Sequence[Rows]) -> None:
        """Saves the SAEs, the state of their stream and the rows so far, if the last time is `EVERY_SECONDS` ago."""
        if time.monotonic() - self._latest < EVERY_SECONDS:
            return
        from safetensors.torch import save_file

        with published_folder(self.folder) as draft:
            save_file(group.state_dict(), draft / TENSORS)
            state = {"key": self.key, "step": step, "rows": rows, "stream": group.stream_state}
            checked = state | {"sha256": file_sha256(draft / TENSORS)}
            (draft / STATE).write_text(seal(json.dumps(checked, allow_nan=False)))
        self._latest = time.monotonic()

    def load_into(self, group: "Class") -> tuple[int, list[Rows]] | None:
        """Brings SAEs to where the checkpoint left them.

        Returns:
            The steps that are done and the rows of each SAE; None if there is no checkpoint that can be used.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.folder.exists():
            return None
        try:
            state: dict[str, Any] = read_sealed(self.folder / STATE)
            if state["key"] != self.key or state["sha256"] != file_sha256(self.folder / TENSORS):
                raise UserError(f"{self.folder}: damaged or of another config")
            group.load_state_dict(load_file(self.folder / TENSORS), state["stream"])
        except (OSError, UserError, SafetensorError) as error:
            log.warning("%s; the training starts from its first step", error)
            return None
        return state["step"], state["rows"]

    def remove(self) -> None:
        """Deletes the checkpoint: the training is over."""
        shutil.rmtree(self.folder, ignore_errors=True)
