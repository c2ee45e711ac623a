"""Makes a copy of the project with a miniature suite to run and edit, for the tests of the pipeline and the drill."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROJECT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "scripts", "saelib", "envs")
OF_A_RUN = ("runs", "dask", "figures", "report.html", "keys.json", ".lock")
"""Files below `results/` that differ from run to run. Figures and the page carry the time they were made; the tables
hold every number; `keys.json` also describes the results that a run replaced."""


@dataclass
class Tree:
    """A folder with a copy of the project."""

    root: Path

    def snakemake(self, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        """Runs the suite, with further arguments."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout)

    def run(self) -> None:
        """Runs the suite, which must succeed."""
        done = self.snakemake()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    def stale(self) -> set[str]:
        """Returns the jobs that a run would start, such as 'stats/a/layers_1-2'."""
        code = (
            "from pathlib import Path; from saelib.config import load_config\n"
            "from saelib.pipeline.plan import make_plan\n"
            "print(*make_plan(load_config(Path('workflow_config.yaml'))).jobs)"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    @property
    def results(self) -> Path:
        """The results folder."""
        return self.root / "results"

    def hashes(self) -> dict[str, str]:
        """Returns a hash of every result file by its path below `results/`, except for files that differ by run."""
        return {
            str(relative): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.results.rglob("*"))
            if path.is_file() and (relative := path.relative_to(self.results)).parts[0] not in OF_A_RUN
        }

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes, in which the copy is imported and not the installed project."""
        return os.environ | {"PYTHONPATH": str(self.root)}

    @property
    def config(self) -> dict[str, Any]:
        """The suite: reading returns the content of its file, assigning writes it."""
        return yaml.safe_load((self.root / "workflow_config.yaml").read_text())

    @config.setter
    def config(self, value: dict[str, Any]) -> None:
        (self.root / "workflow_config.yaml").write_text(yaml.safe_dump(value, sort_keys=False))

    def copy(self, root: Path, *, state: bool = True) -> "Tree":
        """Copies the project and its results; with `state`, Snakemake's own records too."""
        ignore = None if state else shutil.ignore_patterns(".snakemake")
        shutil.copytree(self.root, root, symlinks=True, ignore=ignore)
        return Tree(root)


def make_tree(root: Path) -> Tree:
    """Makes a new copy of the project with the miniature suite, which has not run yet."""
    root.mkdir()
    for part in PARTS:
        source = PROJECT / part
        # Compiled kernels come along, with the file dates and sizes that their cache checks: nothing is recompiled.
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, root / part)
    _write_arrays(root / "arrays")
    tree = Tree(root)
    tree.config = _suite()
    return tree


def _write_arrays(folder: Path) -> None:
    """Writes the activations of two models: one with a large mean in one dimension, one without."""
    folder.mkdir()
    for model, outlier in (("calm", 0.0), ("severe", 30.0)):
        for layer in (1, 2, 3):
            rng = np.random.default_rng(sum(map(ord, model)) * 10 + layer)
            acts = rng.standard_normal((3200, 24)).astype(np.float32) * np.linspace(0.5, 2, 24, dtype=np.float32)
            acts[:, 3] += outlier * layer
            np.save(folder / f"{model}_{layer}.npy", acts)


def _suite() -> dict[str, Any]:
    def model(name: str, layers: str, representative: int | None) -> dict[str, Any]:
        files = {layer: f"arrays/{name}_{layer}.npy" for layer in (1, 2, 3)}
        entry = {
            "domain": f"{name} things",
            "source": {"family": "arrays", "files": files},
            "layers": layers,
            "license": "none",
            "notes": "made up",
        }
        return entry | ({"representative_layer": representative} if representative else {})

    return {
        "models": {"calm": model("calm", "1-2", None), "severe": model("severe", "1-2", 2)},
        "extraction": {"tokens": 2048, "heldout_tokens": 1024, "chunk_rows": 512, "threads": 1},
        "stats": {"layers_per_job": 4},
        "init_death": {"d_sae": 128, "k": 8, "seeds": 2, "layers_per_job": 4},
        "train": {
            "d_sae": 64,
            "k": 4,
            "batch_size": 128,
            "steps": 30,
            "learning_rates": [0.001, 0.01],
            "dead_after_examples": 1000,
            "record_every": 10,
            "checkpoint_every": 10,
            "variants": {"baseline": {}, "auto": {"preprocessing": "auto", "dead_latents": "auxk"}},
        },
    }
