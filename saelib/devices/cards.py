"""Gives each job of a machine a GPU of its own.

A job holds the lock file of its GPU until its process ends, however it ends. Locks are named by the GPU's UUID, so it
makes no difference under which numbers jobs see their GPUs (CUDA_VISIBLE_DEVICES).
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from saelib.errors import UserError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Pause between two looks for a free GPU."""

_held: dict[str, TextIO] = {}
"""Lock files of the GPUs that this process holds, by UUID."""


def job_device(wanted: str, key: str, *, float64: bool = False, spread: bool = False) -> str:
    """Returns the name of the device for this job, and waits for a free GPU if it needs one.

    A second call in the same process returns the same device. If Slurm has assigned a single GPU to the job, this GPU
    is taken as it is. Without a GPU, `auto` means Apple's "mps" or the CPU.

    Args:
        wanted: `auto`, `cpu`, `cuda` (any free GPU) or `cuda:1` (the second of those that are visible).
        key: The key of the config that says so, for messages.
        float64: Whether numbers of 64 bits are needed, which Apple's GPUs do not have.
        spread: Whether the job spreads a model over all GPUs, so that it needs all of them.

    Raises:
        UserError: if there is no such GPU, or if the folder of the lock files belongs to somebody else.
    """
    if wanted == "cpu":
        return "cpu"
    uuids = visible_cards()
    if not uuids and wanted == "auto":
        return _without_card(float64)
    number = int(wanted.partition(":")[2] or 0)
    if number >= len(uuids):
        found = f"finds {len(uuids)} GPUs, numbered from 0" if uuids else "finds no GPU"
        raise UserError(f"{key}: {wanted}: torch {found} here; set `auto` to use a GPU only where there is one")
    if len(uuids) == 1 and "SLURM_JOB_ID" in os.environ:
        return _current(0)
    if spread:
        for uuid in sorted(uuids):  # in one order, so that two such jobs cannot wait for each other
            _take_one([uuid])
        return _current(0)
    return _current(uuids.index(_take_one([uuids[number]] if ":" in wanted else uuids)))


def visible_cards() -> list[str]:
    """Returns the UUIDs of the GPUs that torch may use, in torch's order."""
    import torch

    return [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]


def count_cards(devices: Path = Path("/dev")) -> int:
    """Counts the NVIDIA GPUs that jobs of this machine may use, without importing torch."""
    present = len(list(devices.glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not present or visible is None:
        return present
    return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])


def _without_card(float64: bool) -> str:
    import torch

    return "mps" if torch.backends.mps.is_available() and not float64 else "cpu"


def _current(number: int) -> str:
    """Returns the name of a GPU, which becomes the one that torch means by "cuda"."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number)
    return f"cuda:{number}"


def _take_one(uuids: Sequence[str]) -> str:
    """Takes one of these GPUs, or keeps one that this process has, and waits as long as other jobs hold all of them."""
    kept = next((uuid for uuid in uuids if uuid in _held), None)
    if kept is not None:
        return kept
    waited = False
    while True:
        for uuid in uuids:
            lock = _try_to_lock(uuid)
            if lock is not None:
                _held[uuid] = lock
                return uuid
        if not waited:
            log.info("waiting for a GPU: other jobs hold all %d that this one may use", len(uuids))
        waited = True
        time.sleep(POLL_SECONDS)


def _try_to_lock(uuid: str) -> TextIO | None:
    file = (_folder() / f"{uuid}.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _folder() -> Path:
    """Returns the folder of this user's lock files, which nobody else can write in."""
    folder = Path(tempfile.gettempdir()) / f"saelib-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to somebody else, and GPUs are given out by lock files there; remove it")
    return folder
