"""On a real Slurm the workflow gives the results of one machine, whatever happens to jobs, nodes and controllers."""

import re
import shutil
from typing import Any

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slurm

STAGES = ["extract", "stats", "init_death", "train", "report"]


def submissions(words: str) -> int:
    return len(re.findall("has been submitted with SLURM jobid", words))


@pytest.fixture
def same(suite: Any) -> Any:
    """To be called at the end: nothing is left to do, and the results are those of one machine."""
    undisturbed = suite.tree.hashes()

    def check() -> None:
        suite.wait(lambda: not suite.slurm("squeue", "--noheader"), "the last jobs to end")
        assert suite.tree.stale() == set()
        assert suite.tree.hashes() == undisturbed

    return check


@pytest.mark.essential
def test_everything_by_the_documented_command_and_training_on_gpus(suite: Any, same: Any) -> None:
    shutil.rmtree(suite.root / "results")
    suite.tree.config = suite.tree.config | {"gpus": True}
    words = suite.start().end()
    assert submissions(words) == 2 + 2 + 2 + 2 + 1  # predictions take no job
    gpus = {stage: {(suite.root / "seen" / stage / job).read_text() for job in suite.seen(stage)} for stage in STAGES}
    assert gpus.pop("train") <= {"0", "1"}
    assert set.union(*gpus.values()) == {"none"}
    same()


def test_a_gpu_type_and_partitions_are_set_in_the_profile(suite: Any, same: Any) -> None:
    profile = suite.root / "profiles" / "slurm" / "config.yaml"
    as_told = re.sub(
        r"^# ((default|set)-resources:|  (slurm_partition|extract|train): )", r"\1", profile.read_text(), flags=re.M
    )
    as_told = as_told.replace("slurm_partition: cpu", "slurm_partition: other").replace("a100", "pretended")
    assert yaml.safe_load(as_told)["set-resources"]["train"] == {"slurm_partition": "gpu", "gpu_model": "pretended"}
    profile.write_text(as_told)
    suite.tree.config = suite.tree.config | {"gpus": True}
    suite.forget("extract", "calm")
    suite.forget("train", "severe/layer_2/baseline")
    suite.forget("stats", "severe")
    suite.start().end()
    (extraction,), (training,), (statistics,) = (suite.seen(stage) for stage in ("extract", "train", "stats"))
    assert "Partition=other" in suite.slurm("scontrol", "show", "job", statistics)
    assert "Partition=gpu" in suite.slurm("scontrol", "show", "job", training)
    assert "gres:gpu:pretended:1" in suite.slurm("scontrol", "show", "job", training)
    assert "gres:gpu:pretended:0" in suite.slurm("scontrol", "show", "job", extraction)  # of arrays
    same()


@pytest.mark.essential
def test_a_job_that_needs_more_memory_than_it_asked_for_asks_for_more(suite: Any, same: Any) -> None:
    config = suite.tree.config
    config["models"]["calm"]["resources"] = {"stats": {"mem_mb": 600}}
    suite.tree.config = config
    (suite.root / "hog").touch()
    suite.forget("stats", "calm")
    words = suite.start().end()
    assert submissions(words) == 2
    asked = [suite.slurm("squeue", "--noheader", "--states=all", "-o%m", "-j", job) for job in suite.seen("stats")]
    assert [line.strip() for line in asked] == ["600M", "1200M"]
    same()


@pytest.mark.essential
def test_a_cancelled_job_is_submitted_again(suite: Any, same: Any) -> None:
    suite.forget("stats", "severe")
    suite.hold("stats")
    run = suite.start()
    suite.wait(lambda: suite.seen("stats"), "the job to start")
    suite.slurm("scancel", suite.seen("stats")[0])
    suite.wait(lambda: len(suite.seen("stats")) == 2, "its next attempt")
    suite.release("stats")
    assert submissions(run.end()) == 2
    same()


def test_a_node_goes_down_and_comes_back(suite: Any, same: Any) -> None:
    suite.forget("train", "severe/layer_2/auto")
    suite.hold("train")
    run = suite.start()
    suite.wait(lambda: suite.seen("train"), "the job to start")
    (job,) = suite.seen("train")
    node = suite.slurm("squeue", "--noheader", "-o%N", "-j", job).strip()
    suite.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    suite.wait(
        lambda: "PENDING" in suite.slurm("squeue", "--noheader", "-o%T", "-j", job), "the job to be queued again"
    )
    suite.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    suite.release("train")
    assert submissions(run.end()) == 1  # Slurm itself starts the job again
    assert "Restarts=1" in suite.slurm("scontrol", "show", "job", job)
    same()


@pytest.mark.essential
def test_statistics_on_workers_that_each_job_asks_slurm_for(suite: Any, same: Any) -> None:
    workers = {"jobs": 2, "cores": 1, "memory": "2GiB", "walltime": "00:10:00", "wait_seconds": 120}
    suite.tree.config = suite.tree.config | {"dask": {"slurm": workers}}
    suite.forget("stats", "severe")
    suite.forget("stats", "calm")
    assert submissions(suite.start().end()) == 2
    first = int(suite.seen("stats")[0])
    listed = suite.slurm("squeue", "--noheader", "--states=all", "--name=dask-worker", "-o%i %T").splitlines()
    states = [state for job, state in map(str.split, listed) if int(job) > first]
    assert len(states) == 2 * 2
    assert not {"PENDING", "RUNNING"} & set(states)  # given back
    same()


@pytest.mark.parametrize(
    "stage", ["extract", "stats", "init_death", pytest.param("train", marks=pytest.mark.essential), "report"]
)
def test_the_controller_is_killed_and_the_next_one_meets_jobs_that_still_run(suite: Any, same: Any, stage: str) -> None:
    suite.forget(stage)
    suite.hold(stage)
    first = suite.start()
    suite.wait(lambda: suite.seen(stage), "the first run's job to start")
    first.kill()
    orphans = suite.slurm("squeue", "--noheader", "-o%i").split()
    second = suite.start()
    suite.wait(lambda: set(suite.seen(stage)) - set(orphans), "the second run's job to start")
    assert set(orphans) <= set(suite.slurm("squeue", "--noheader", "-o%i").split())
    suite.release(stage)
    second.end()
    same()


def test_the_config_is_broken_while_the_run_is_at_work(suite: Any, same: Any) -> None:
    whole = suite.tree.config
    suite.forget("stats", "calm")
    suite.forget("init_death", "calm")
    suite.hold("stats")
    run = suite.start()
    suite.wait(lambda: suite.seen("stats"), "a job to start")
    suite.tree.config = whole | {"models": {"being edited": {}}}
    suite.release("stats")
    run.end()
    suite.tree.config = whole
    same()


def test_only_what_is_new_or_edited_is_submitted(suite: Any) -> None:
    config = suite.tree.config
    config["models"]["new"] = config["models"]["calm"] | {"domain": "new things"}
    suite.tree.config = config
    edited = suite.root / "arrays" / "severe_1.npy"
    np.save(edited, np.load(edited) * np.float32(1.5))
    words = suite.start(quick=False).end()
    assert submissions(words) == 3 + 3 + 1  # each: extraction, statistics, deaths; then the report
    assert suite.tree.stale() == set()
