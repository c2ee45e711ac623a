"""What the Snakefile relies on: one controller at a time, and jobs that share its plan."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from saelib.errors import UserError
from saelib.pipeline.workflow import PLAN, Workflow

FILE = "suite.yaml"
RUN = {
    "domain": "language",
    "source": {"family": "transformers", "weights": {"path": "weights"}},
    "dataset": "docs",
    "layers": "1-8",
}


@pytest.fixture
def open_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Workflow]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # they are set by what is tested
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv(PLAN, "")
    monkeypatch.delenv(PLAN)
    np.save("acts.npy", np.ones((8, 4), np.float32))
    model = {"domain": "x", "source": {"family": "arrays", "files": {1: "acts.npy"}}, "layers": 1}
    resources = {"stats": {"mem_mb": 700}}
    Path(FILE).write_text(yaml.safe_dump({"models": {"m": model | {"resources": resources}}}))
    return lambda **options: Workflow([], {}, FILE, **options)


def test_jobs_take_the_config_from_the_plan_whatever_became_of_the_file(open_suite: Callable[..., Any]) -> None:
    run = open_suite()
    run.start()
    Path(FILE).write_text("models: [being edited")
    job = open_suite(controls=False)
    assert job.config == run.config
    wildcards = SimpleNamespace(run=run.run, job="m/layers_1-1")
    assert job.before("stats")(wildcards) == run.before("stats")(wildcards) != []
    with pytest.raises(UserError, match="not valid YAML"):
        open_suite()


def test_resources_are_those_of_the_config(open_suite: Callable[..., Any]) -> None:
    memory = open_suite().resource("stats", "mem_mb")
    assert [memory(SimpleNamespace(job="m/layers_1-1"), attempt) for attempt in (1, 3)] == [700, 2100]


@pytest.mark.parametrize(
    ("cards", "nodes", "given", "limit", "asked"),
    [(2, None, {}, 2, 1), (2, None, {"gpu": 1}, 1, 1), (0, None, {}, None, 0), (2, 50, {}, None, 0)],
    ids=["two GPUs", "a limit of the user's", "no GPU", "on a cluster"],
)
def test_jobs_share_the_gpus_of_a_machine(
    open_suite: Callable[..., Any], cards: int, nodes: int | None, given: dict[str, int], limit: int | None, asked: int
) -> None:
    parts = {"datasets": {"docs": {"kind": "python_docs"}}, "models": {"m": RUN}, "train": {"device": "cpu"}}
    Path(FILE).write_text(yaml.safe_dump(parts))
    settings = SimpleNamespace(nodes=nodes)
    snakemake = SimpleNamespace(is_main_process=True, resource_settings=settings, global_resources=dict(given))
    suite = open_suite()
    suite.share_gpus(snakemake, cards)
    assert snakemake.global_resources.get("gpu") == limit
    stages = {stage: suite.resource(stage, "gpu")(SimpleNamespace(job="m/x"), 1) for stage in ("extract", "train")}
    assert stages == {"extract": asked, "train": 0}  # train.device: cpu
    assert suite.resource("stats", "gpu")(SimpleNamespace(job="m/x"), 1) == 0


def test_a_second_run_is_refused_while_the_first_lives(open_suite: Callable[..., Any]) -> None:
    first = open_suite()
    first.start()
    with pytest.raises(UserError, match="another run is at work"):
        open_suite().start()
    del first
    open_suite().start()


def test_results_that_cannot_be_written_are_named_before_any_work(open_suite: Callable[..., Any]) -> None:
    Path("file").touch()
    suite = Path(FILE).read_text()
    Path(FILE).write_text(f"results: file/results\n{suite}")
    with pytest.raises(UserError, match=r"file/results: results cannot be written there \(Not a directory\)"):
        open_suite().start()
    Path(FILE).write_text(f"results: 'a{{run}}'\n{suite}")
    with pytest.raises(UserError, match="braces"):
        open_suite()
    Path(FILE).write_text(f"results: ~/somewhere\n{suite}")
    assert open_suite().results == str(Path.home() / "somewhere")


def test_a_working_folder_that_cannot_be_written_is_named(
    open_suite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{Path.cwd()} cannot be written.*--directory"):
        open_suite()


def test_jobs_run_the_scripts_and_the_code_beside_the_snakefile(
    open_suite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine:/clone")
    assert open_suite(home="/elsewhere/../clone").script("stats") == "/clone/scripts/stats.py"
    assert os.environ["PYTHONPATH"] == "/clone:/mine"


def test_a_file_system_without_locks_is_no_obstacle(
    open_suite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    run = open_suite()
    with caplog.at_level(logging.WARNING):
        run.start()
    assert "do not start a second run there" in caplog.text
    assert Path(run.results, "runs", run.run, "plan.json").exists()
