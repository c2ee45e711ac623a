"""AlphaFold 3 (Abramson et al. 2024): the Pairformer's single representation, from the files of its own program.

Each protein is a job, named by a hash of its content. The program reads `inputs/{job}.json` and writes
`outputs/{job}/seed-1_embeddings/`. The user runs it, or `command` runs it for each batch.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.config.sources import AlphaFold3Source
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.files.sealed import write_json
from saelib.sources.base import Activations, texts

log = logging.getLogger(__name__)

NAME = "AlphaFold 3"
WIDTH = 384
SEED = 1
ARRAY = "single_embeddings"
FLAGS = "--run_data_pipeline=false --save_embeddings=true --num_recycles=1 --num_diffusion_samples=1"
RECYCLES = (
    "--num_recycles is at least 1 as published, which runs the trunk twice; for the paper's 0, lower its lower_bound "
    "in run_alphafold.py"
)
FILL_IN = ("{input_dir}", "{output_dir}")


def open_source(config: AlphaFold3Source, device: str = "cpu", dtype: str = "float32") -> "AlphaFold3":
    """Returns the source without loading anything: the program has its own weights, device and precision.

    Raises:
        UserError: if `config.command` does not take the folders of inputs and outputs.
    """
    lacking = [word for word in FILL_IN if config.command and not any(word in part for part in config.command)]
    if lacking:
        raise UserError(f"{NAME}: command has no {' and no '.join(lacking)}, which stands for the folder's path")
    return AlphaFold3(config)


class AlphaFold3:
    """A source with layer 0 only. A token is a residue; proteins longer than `max_length` have no tokens."""

    n_layers = 0

    def __init__(self, config: AlphaFold3Source) -> None:
        """Takes the `source` of a model in the suite."""
        self._config = config

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer (see `Source.d_in`)."""
        if layer != 0:
            raise UserError(f"{NAME}: has no layer {layer}; its program saves only the single representation, layer 0")
        return WIDTH

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Returns the embeddings of the examples (see `Source.forward`), running `command` for those that lack them.

        Raises:
            UserError: also if embeddings are missing and there is no `command`; their inputs are written first.
        """
        for layer in layers:
            self.d_in(layer)
        sequences = _sequences(examples)
        jobs = {job_name(one): one for one in sequences if len(one) <= self._config.max_length}
        missing = {job: one for job, one in jobs.items() if _saved(self._config.outputs, job) is None}
        if missing and self._config.command:
            _run(self._config, missing)
        elif missing:
            write_inputs(self._config, examples)
            more = "`saelib alphafold3-inputs` writes the inputs of all batches at once"
            raise UserError(f"{advice(self._config, len(missing), len(jobs))}. {more}")
        arrays = {job: _read(self._config.outputs, job, len(one)) for job, one in jobs.items()}
        empty = np.empty((0, WIDTH), np.float32)
        found = [arrays.get(job_name(one), empty) for one in sequences]
        acts = np.concatenate([empty, *found])
        return Activations(dict.fromkeys(layers, acts), [len(array) for array in found])


def write_inputs(config: AlphaFold3Source, examples: Iterable[Example]) -> int:
    """Writes `config.inputs/{job}.json` for each protein without embeddings that is not above `config.max_length`.

    Inputs whose embeddings exist are removed first. The folder then always holds exactly what the program still has to
    run on, however often it is started.

    Returns:
        Number of these proteins without embeddings.

    Raises:
        UserError: for images, or letters that the program does not read.
    """
    for path in config.inputs.glob("saelib_*.json"):
        if _saved(config.outputs, path.stem) is not None:
            path.unlink()
    left: set[str] = set()
    for example in examples:
        [sequence] = _sequences([example])
        job = job_name(sequence)
        path = config.inputs / f"{job}.json"
        if len(sequence) <= config.max_length and job not in left and _saved(config.outputs, job) is None:
            left.add(job)
            if not path.exists():
                write_json(path, {"name": job, **_job(sequence)})
    return len(left)


def advice(config: AlphaFold3Source, missing: int, proteins: int) -> str:
    """Says what to do about the `missing` of all `proteins` that have no embeddings; their inputs are written."""
    waiting = sum(1 for _ in config.inputs.glob("saelib_*.json"))
    folders = f"--input_dir={config.inputs} --output_dir={config.outputs} --model_dir=WEIGHTS"
    return (
        f"{NAME}: {missing} of {proteins} proteins have no embeddings in {config.outputs}. Their inputs are written; "
        f"{waiting} files wait in {config.inputs}. Run\n"
        f"  python run_alphafold.py {folders} {FLAGS}\n"
        f"and then the suite ({RECYCLES})"
    )


def job_name(sequence: str) -> str:
    """Returns the name of a protein's job: small letters, digits and `_`, which no version of the program changes."""
    return f"saelib_{hashlib.sha256(json.dumps(_job(sequence)).encode()).hexdigest()[:32]}"


def _job(sequence: str) -> dict[str, Any]:
    """Returns a job in the program's input format, without its name: one chain and seed, no alignments or templates."""
    protein = {"id": "A", "sequence": sequence, "unpairedMsa": "", "pairedMsa": "", "templates": []}
    return {"modelSeeds": [SEED], "sequences": [{"protein": protein}], "dialect": "alphafold3", "version": 1}


def _sequences(examples: Sequence[Example]) -> list[str]:
    found = texts(examples, NAME)
    for example, letters in zip(examples, found, strict=True):
        if not (letters.isascii() and letters.isalpha()):
            raise UserError(f"{NAME}: reads residues as letters, but example '{example.id}' holds {letters[:40]!r}")
    return [letters.upper() for letters in found]


def _saved(outputs: Path, job: str) -> Path | None:
    """Returns the file with a job's embeddings, in the layout of version 3.0.2 and later or of 3.0.1; None if absent.

    If the folder of a job exists, another run writes to `{job}_{date}_{time}`; the latest of these is used.
    """
    part = f"seed-{SEED}_embeddings"
    for path in (outputs / job / part / f"{job}_seed-{SEED}_embeddings.npz", outputs / job / part / "embeddings.npz"):
        if path.is_file():
            return path
    return max(outputs.glob(f"{job}_*/{part}/*embeddings.npz"), default=None)


def _read(outputs: Path, job: str, length: int) -> NDArray[np.float32]:
    """Reads the single embeddings [length, 384] of a protein of that length, but not the large pair embeddings."""
    path = _saved(outputs, job)
    if path is None:
        raise UserError(f"{NAME}: command succeeded, but left no embeddings of {job} in {outputs}; it needs {FLAGS}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays[ARRAY]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not {NAME}'s embeddings ({reason}); delete it and run {job} again") from None
    padded = path.name == "embeddings.npz"  # version 3.0.1 keeps the padding up to the size that it compiled for
    fits = found.ndim == 2 and found.shape[1] == WIDTH and (len(found) == length or (padded and len(found) > length))
    if not fits or not np.issubdtype(found.dtype, np.floating):
        raise UserError(
            f"{path}: {ARRAY} is {found.dtype} {list(found.shape)}; for a protein of {length} residues it should be "
            f"floating point [{length}, {WIDTH}]"
        )
    return found[:length].astype(np.float32)


def _run(config: AlphaFold3Source, jobs: dict[str, str]) -> None:
    """Runs the command on a temporary folder with only these jobs. Its output goes into the log."""
    folder = config.inputs / f"batch_{hashlib.sha256(' '.join(jobs).encode()).hexdigest()[:16]}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    for job, sequence in jobs.items():
        write_json(folder / f"{job}.json", {"name": job, **_job(sequence)})
    config.outputs.mkdir(parents=True, exist_ok=True)
    inputs, outputs = str(folder.resolve()), str(config.outputs.resolve())
    arguments = [part.replace(FILL_IN[0], inputs).replace(FILL_IN[1], outputs) for part in config.command]
    last: deque[str] = deque(maxlen=10)
    try:
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                log.info("%s: %s", NAME, line.rstrip())
                last.append(line.rstrip())
    except OSError as error:
        raise UserError(f"{NAME}: command '{arguments[0]}' cannot be run: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if process.returncode:
        raise UserError(
            f"{NAME}: command {arguments} ended with {process.returncode}. Its last output:\n" + "\n".join(last)
        )
