"""On a GPU, an extraction publishes statistics and deaths too: those that their own jobs compute from the stores.

Without a GPU, the device is "cpu:0", which takes the code for GPUs.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Model

from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract import stage as extract
from saelib.init_death import stage as init_death
from saelib.pipeline import one_pass
from saelib.pipeline.jobs import run_stale
from saelib.pipeline.plan import Job, Plan, load_job, make_plan
from saelib.pipeline.resources import stages_along
from saelib.pipeline.targets import stale
from saelib.stats import stage as stats
from saelib.store import kept

LAYERS = [0, 1, 2, 3]
EXTRACT = "extract/tiny/layers_0-3"
STAGES: dict[str, Callable[[Config, Job], None]] = {
    "extract": extract.run,
    "stats": stats.run,
    "init_death": init_death.run,
}
LAYER_BYTES = 2 * 1300 * 16


def suite(weights: Path, results: Path, **parts: Any) -> Config:
    source = {"family": "transformers", "weights": {"path": str(weights)}, "max_length": 40}
    defaults: dict[str, Any] = {
        "results": str(results),
        "datasets": {"docs": {"kind": "python_docs", "characters": 300}},
        "models": {"tiny": {"domain": "language", "source": source, "dataset": "docs", "layers": "0-3"}},
        "extraction": {"tokens": 1000, "heldout_tokens": 300, "chunk_rows": 128, "window_rows": 512, "threads": 1},
        "stats": {"device": "auto"},
        "init_death": {"device": "auto", "d_sae": 64, "k": 4, "seeds": 2, "preprocessings": ["raw", "center_mean"]},
    }
    return check_config(defaults | parts, "suite")


@pytest.fixture
def on_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the stages find a GPU; without one, it is the CPU under a GPU's name, with a gigabyte to spare."""
    if device == "cpu":
        for stage in (one_pass, stats, init_death):
            monkeypatch.setattr(stage, "job_device", lambda *_, **__: "cpu:0")
        monkeypatch.setattr(kept, "spare_bytes", lambda: 1e9)


def run(plan: Plan, *stages: str) -> None:
    for job in plan.jobs.values():
        if job.stage in stages:
            STAGES[job.stage](plan.config, job)


def missing(plan: Plan) -> list[str]:
    """Results of the first stages that are not there."""
    jobs = [job for job in plan.jobs.values() if job.stage in STAGES]
    return [str(target) for job in jobs for target in stale(job.targets)]


def contents(results: Path) -> dict[str, bytes]:
    files = (path for path in results.rglob("*") if path.is_file())
    return {str(path.relative_to(results)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("on_gpu")
def test_results_are_those_of_their_own_jobs_to_the_last_byte(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = make_plan(suite(tiny_gpt2, tmp_path / "apart"))
    run(apart, "extract", "stats", "init_death")

    def reads(location: object) -> None:
        raise AssertionError(f"reads {location}")

    for stage in (stats, init_death):
        monkeypatch.setattr(stage, "open_store", reads)
    along = make_plan(suite(tiny_gpt2, tmp_path / "along"))
    one_pass.run(along.config, along.jobs[EXTRACT])
    assert missing(along) == []
    assert contents(tmp_path / "along") == contents(tmp_path / "apart")
    assert not any(job.stage in STAGES for job in make_plan(along.config).jobs.values())


@pytest.mark.usefixtures("on_gpu")
def test_the_jobs_of_these_stages_then_have_nothing_to_do(
    tiny_gpt2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(suite(tiny_gpt2, tmp_path / "results"))
    plan.save(tmp_path / "plan.json")
    one_pass.run(*load_job(tmp_path / "plan.json", EXTRACT))

    def runs(config: Config, job: Job) -> None:
        raise AssertionError(f"runs {job.id}")

    caplog.set_level(logging.INFO)
    for stage in ("stats", "init_death"):
        config, job = load_job(tmp_path / "plan.json", f"{stage}/tiny/layers_0-3")
        assert run_stale(config, job, runs) == 0
    assert caplog.messages == 2 * ["4 of 4 results are already there"]


@pytest.mark.usefixtures("on_gpu")
def test_layers_that_do_not_fit_are_left_to_their_jobs(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept, "spare_bytes", lambda: 2 * 2.5 * LAYER_BYTES)
    plan = make_plan(suite(tiny_gpt2, tmp_path))
    caplog.set_level(logging.INFO)
    one_pass.run(plan.config, plan.jobs[EXTRACT])
    assert missing(plan) == [f"{stage} of tiny layer {i}" for stage in ("stats", "init_death") for i in (2, 3)]
    assert any("layers 2-3 do not fit" in message for message in caplog.messages)
    for stage in ("stats", "init_death"):
        run_stale(plan.config, plan.jobs[f"{stage}/tiny/layers_0-3"], STAGES[stage])
    assert missing(plan) == []


@pytest.mark.usefixtures("on_gpu")
def test_a_stage_that_fails_fails_in_its_own_job_and_the_stores_stay(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute = stats.compute_stats

    def fails(rows: Any, **options: Any) -> Any:
        if "layer 1 " in rows.name:
            raise UserError(f"{rows.name}: all tokens are the same")
        return compute(rows, **options)

    monkeypatch.setattr(stats, "compute_stats", fails)
    plan = make_plan(suite(tiny_gpt2, tmp_path))
    one_pass.run(plan.config, plan.jobs[EXTRACT])
    assert missing(plan) == ["stats of tiny layer 1", "init_death of tiny layer 1"]
    assert "tiny layer 1: the job of stats reads the store instead" in caplog.messages
    with pytest.raises(UserError, match=r"tiny layer 1 \(train\): all tokens are the same"):
        run_stale(plan.config, plan.jobs["stats/tiny/layers_0-3"], stats.run)


@pytest.mark.usefixtures("on_gpu")
def test_a_stale_statistic_alone_is_computed_from_the_store(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = suite(tiny_gpt2, tmp_path)
    one_pass.run(config, make_plan(config).jobs[EXTRACT])
    before = contents(tmp_path)
    config.stats_path("tiny", 2).unlink()
    plan = make_plan(config)
    assert [job.id for job in plan.jobs.values() if job.stage in STAGES] == ["stats/tiny/layers_2-2"]
    run(plan, "stats")
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("on_gpu")
def test_deaths_alone_are_counted_along_with_a_lost_store(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = suite(tiny_gpt2, tmp_path)
    one_pass.run(config, make_plan(config).jobs[EXTRACT])
    before = contents(tmp_path)
    (config.store_path("tiny", 2) / "zarr.json").unlink()  # pyright: ignore[reportOperatorIssue]
    config.init_death_path("tiny", 2).unlink()
    plan = make_plan(config)
    job = plan.jobs["extract/tiny/layers_2-2"]
    assert [str(target) for target in job.along] == ["init_death of tiny layer 2"]
    one_pass.run(config, job)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("on_gpu")
def test_a_model_that_lacks_the_memory_of_the_rows_runs_without_them(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward, passes = GPT2Model.forward, []

    def exhausted_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GPT2Model, "forward", exhausted_once)
    plan = make_plan(suite(tiny_gpt2, tmp_path))
    one_pass.run(plan.config, plan.jobs[EXTRACT])
    assert missing(plan) == [f"{stage} of tiny layer {i}" for stage in ("stats", "init_death") for i in LAYERS]
    assert any("it runs again, and keeps none" in message for message in caplog.messages)


@pytest.mark.usefixtures("on_gpu")
def test_a_model_that_does_not_fit_by_itself_is_not_run_again(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []

    def exhausted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(GPT2Model, "forward", exhausted)
    plan = make_plan(suite(tiny_gpt2, tmp_path))
    with pytest.raises(UserError, match="do not hold the model with a batch of"):
        one_pass.run(plan.config, plan.jobs[EXTRACT])
    assert len(passes) == 1


@pytest.mark.parametrize(
    "parts",
    [{}, {"extraction": {"device": "cpu"}}, {"stats": {"device": "cpu"}}],
    ids=["no GPU", "extraction on the CPU", "statistics on the CPU"],
)
def test_on_a_cpu_nothing_is_kept(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    config = suite(tiny_gpt2, tmp_path, **parts)
    plan, extracted = make_plan(config), []
    device = (parts.get("extraction") or {"device": "cpu" if not parts else "cuda:0"})["device"]
    monkeypatch.setattr(one_pass, "job_device", lambda *_, **__: device)
    monkeypatch.setattr(extract, "run", lambda *arguments: extracted.append(arguments))
    one_pass.run(config, plan.jobs[EXTRACT])
    assert extracted == [(config, plan.jobs[EXTRACT])]


def test_the_stages_depend_on_the_devices_of_the_config_and_the_packages_of_the_model(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    def along(**parts: Any) -> list[str]:
        config = suite(tiny_gpt2, tmp_path, **parts)
        return stages_along(config, next(iter(config.models.values())))

    assert along() == ["stats", "init_death"]
    assert along(init_death={"device": "cpu"}) == ["stats"]
    assert along(stats={"device": "cpu"}) == []  # deaths need the statistics
    files = {"family": "arrays", "files": {0: "a.npy"}}
    assert along(models={"files": {"domain": "d", "source": files, "layers": 0}}) == []
    # ESM3's environment need not have the packages of other stages.
    esm3 = {"family": "esm3", "weights": {"path": "weights"}}
    assert along(models={"esm3": {"domain": "d", "source": esm3, "dataset": "docs", "layers": 1}}) == []


def test_a_stage_on_another_gpu_is_left_to_its_job(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(**parts: Any) -> list[str]:
        config = suite(tiny_gpt2, tmp_path, **parts)
        return one_pass._device_and_stages(config, make_plan(config).jobs[EXTRACT])[1]

    monkeypatch.setattr(one_pass, "job_device", lambda *_, **__: "cuda:1")
    assert stages() == ["stats", "init_death"]
    assert stages(stats={"device": "cuda:1"}, init_death={"device": "cuda:0"}) == ["stats"]
    assert "stats" not in stages(stats={"device": "cuda:0"})
