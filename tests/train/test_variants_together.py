"""A job that trains several variants of a layer gives each the results of a job of its own, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saelib.extract.stage
import saelib.stats.stage
import saelib.train.stage
from saelib.config import Config
from saelib.config.load import check_config
from saelib.pipeline.plan import make_plan
from saelib.train import sweep

STAGES = {"extract": saelib.extract.stage.run, "stats": saelib.stats.stage.run, "train": saelib.train.stage.run}
VARIANTS = {
    "baseline": {},
    "whitened": {"preprocessing": "pca"},
    "auxk": {"dead_latents": "auxk", "learning_rates": [3e-3]},
    "twin": {"seed": 5},
    "wider": {"d_sae": 64, "architecture": "batch_topk"},
    "chosen": {"preprocessing": "auto"},
}


def suite(folder: Path, variants_per_job: int) -> Config:
    file = folder / "rows.npy"
    if not file.exists():
        np.save(file, 2 + np.random.default_rng(0).standard_normal((900, 16), np.float32))
    source = {"family": "arrays", "files": {1: str(file)}}
    train = {"d_sae": 48, "k": 4, "batch_size": 128, "steps": 25, "learning_rates": [1e-3, 1e-2], "record_every": 5}
    raw = {
        "results": str(folder / f"results_{variants_per_job}"),
        "models": {"toy": {"domain": "made up", "source": source, "layers": 1, "train_layers": [1]}},
        "extraction": {"tokens": 600, "heldout_tokens": 300, "chunk_rows": 256, "threads": 1},
        "train": train
        | {"checkpoint_every": 10, "dead_after_examples": 1000, "variants": VARIANTS}
        | {"variants_per_job": variants_per_job},
    }
    return check_config(raw, "suite")


def run(config: Config) -> dict[str, list[str]]:
    """Runs what is stale up to training; gives the variants of each training."""
    jobs = [job for job in make_plan(config).jobs.values() if job.stage in STAGES]
    for job in jobs:
        STAGES[job.stage](config, job)
    return {job.name: [target.variant for target in job.targets] for job in jobs if job.stage == "train"}


def results(config: Config) -> dict[str, bytes]:
    folder = config.results / "train"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_variants_that_read_the_same_rows_share_a_job_and_nothing_else_changes(tmp_path: Path) -> None:
    apart, together = suite(tmp_path, 1), suite(tmp_path, 9)
    assert list(run(apart)) == [f"toy/layer_1/{variant}" for variant in VARIANTS]
    assert run(together) == {
        "toy/layer_1/variants_1": ["baseline", "auxk", "wider"],
        "toy/layer_1/variants_2": ["whitened"],
        "toy/layer_1/variants_3": ["twin"],
        "toy/layer_1/variants_4": ["chosen"],
    }
    assert len(results(apart)) >= 3 * len(VARIANTS)
    assert results(together) == results(apart)
    again = make_plan(apart.model_copy(update={"train": together.train})).jobs.values()
    assert not {job.stage for job in again} & {*STAGES}  # no result depends on the option


def test_jobs_have_no_more_variants_than_the_config_says(tmp_path: Path) -> None:
    assert {job: len(variants) for job, variants in run(suite(tmp_path, 2)).items()} == {
        "toy/layer_1/variants_1": 2,
        "toy/layer_1/variants_2": 1,
        "toy/layer_1/variants_3": 1,
        "toy/layer_1/variants_4": 1,
        "toy/layer_1/variants_5": 1,
    }


def test_killed_together_they_resume_apart_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, config = suite(tmp_path, 1), suite(tmp_path, 9)
    run(undisturbed)
    step_all = sweep.step_all

    def stop(trainers: Any, *rest: Any) -> None:
        if trainers[0].steps_done == 21:
            raise KeyboardInterrupt
        step_all(trainers, *rest)

    monkeypatch.setattr(sweep, "step_all", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(sweep, "step_all", step_all)
    assert len(list((config.results / "train").rglob("state.json"))) == 2 * 3  # of three variants, the last two each
    one = config.train.model_copy(update={"variants_per_job": 1})
    assert len(run(config.model_copy(update={"train": one}))) == len(VARIANTS)
    assert results(config) == results(undisturbed)
