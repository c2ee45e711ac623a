"""Statistics on a dask cluster of separate processes: the same bits as in the job, whatever happens to the workers."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.delayed import delayed
from distributed import LocalCluster

from saelib.activations.rows import ArrayRows
from saelib.config.cluster import DaskScheduler, DaskSlurm, SlurmWorkers
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract import stage as extract
from saelib.pipeline.plan import make_plan
from saelib.stats import cluster as clusters
from saelib.stats import compute_stats
from saelib.stats import stage as stats_stage
from saelib.store import StoreMetadata, StoreWriter, open_store
from saelib.store.read import StoreRows

TOKENS, D, CHUNK = 60_000, 48, 512


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one layer with a large mean and many chunks."""
    path = tmp_path_factory.mktemp("store") / "layer_0.zarr"
    path.mkdir()
    acts = np.random.default_rng(0).standard_normal((TOKENS, D)).astype(np.float32) ** 3 + 5
    tokens = {"train": TOKENS, "heldout": CHUNK}
    writer = StoreWriter(
        path, tokens=tokens, d_in=D, offset=acts[:64].mean(0), chunk_rows=CHUNK, window_rows=8 * CHUNK, seed=0
    )
    writer.append("train", acts, np.arange(TOKENS, dtype=np.int32))
    writer.append("heldout", acts[:CHUNK], np.arange(CHUNK, dtype=np.int32))
    sizes = {"d_in": D, "train_tokens": TOKENS, "heldout_tokens": CHUNK, "chunk_rows": CHUNK}
    made = {"index_rows": writer.index_rows, "dtypes": writer.dtypes, "reasons": writer.reasons}
    made["examples"] = {"train": 1, "heldout": 1}
    writer.finish(StoreMetadata(key="k", model="m", layer=0, dataset="none", versions={}, **sizes, **made))
    return path


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster:
        yield cluster


def to(cluster: Any, wait_seconds: int = 20) -> DaskScheduler:
    return DaskScheduler(scheduler=cluster.scheduler_address, wait_seconds=wait_seconds)


def assert_same_bits(one: Any, other: Any) -> None:
    assert one == other
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


def test_the_same_bits_as_in_the_job(local: LocalCluster, layer: Path, tmp_path: Path) -> None:
    with clusters.connected(to(local), tmp_path) as cluster:
        assert_same_bits(
            compute_stats(open_store(layer).train), compute_stats(open_store(layer).train, workers=cluster)
        )


def test_workers_open_the_store_themselves(
    local: LocalCluster, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(layer.parent)  # a relative path, which would mean another folder there
    rows = open_store(Path(layer.name)).train
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert isinstance(again, StoreRows)
    np.testing.assert_array_equal(again.block(100, 900), rows.block(100, 900))
    elsewhere = shutil.copytree(layer, tmp_path / "elsewhere.zarr")
    sent = pickle.dumps(open_store(elsewhere).train)
    shutil.rmtree(elsewhere)
    with clusters.connected(to(local), tmp_path) as cluster, pytest.raises(UserError) as error:
        cluster.compute([delayed(pickle.loads)(sent)])
    assert "worker on " in str(error.value)
    assert "elsewhere.zarr: no such store; every worker must be able to read it" in str(error.value)


class InThread(threading.Thread):
    """Statistics on a cluster, computed beside the test."""

    def __init__(self, layer: Path, cluster: clusters.Cluster) -> None:
        super().__init__()
        self.layer, self.cluster = layer, cluster
        self.stats: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.stats = compute_stats(open_store(self.layer).train, workers=self.cluster)
        except UserError as error:
            self.error = error

    def wait_until_busy(self) -> None:
        while not any(self.cluster.client.processing().values()):
            assert self.is_alive()


def test_a_worker_killed_in_the_middle_changes_nothing(local: LocalCluster, layer: Path, tmp_path: Path) -> None:
    with clusters.connected(to(local), tmp_path) as cluster:
        for _ in range(2):
            before = cluster.client.run(os.getpid)
            thread = InThread(layer, cluster)
            thread.wait_until_busy()
            os.kill(next(iter(before.values())), signal.SIGKILL)
            assert thread.is_alive()
            thread.join()
            assert thread.error is None
            assert_same_bits(compute_stats(open_store(layer).train), thread.stats)
            cluster.client.wait_for_workers(2)
            assert set(cluster.client.run(os.getpid).values()) != set(before.values())


def test_no_scheduler_is_one_error_soon(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    address = DaskScheduler(scheduler=f"tcp://127.0.0.1:{port}", wait_seconds=2)
    with pytest.raises(UserError, match=rf"no scheduler answers at tcp://127\.0\.0\.1:{port} within 2 s"):
        clusters.connected(address, tmp_path).__enter__()
    assert time.monotonic() - started < 30  # not a hang


def test_a_scheduler_without_workers(layer: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as empty:
        with pytest.raises(UserError, match="no worker came within 1 s"):
            clusters.connected(to(empty, 1), tmp_path).__enter__()
        empty.scale(1)
        with clusters.connected(to(empty, 3), tmp_path) as cluster:
            thread = InThread(layer, cluster)
            thread.wait_until_busy()
            empty.scale(0)
            thread.join()
            assert "no worker is left, and none came in 3 s" in str(thread.error)


@contextmanager
def processes(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and a worker, each a process of its own."""
    file = folder / "scheduler.json"
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        ["worker", "--scheduler-file", str(file), "--nworkers", "1", "--nthreads", "1", "--no-dashboard"],
    ]
    started = []
    try:
        for command in commands:
            call = [sys.executable, "-m", "dask", *command]
            started.append(subprocess.Popen(call, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while not file.exists() or not file.read_text().strip().endswith("}"):
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def test_a_scheduler_that_goes_away(layer: Path, tmp_path: Path) -> None:
    with (
        processes(tmp_path) as (address, (scheduler, _)),
        clusters.connected(DaskScheduler(scheduler=address, wait_seconds=20), tmp_path) as cluster,
    ):
        thread = InThread(layer, cluster)
        thread.wait_until_busy()
        scheduler.kill()
        thread.join()
        assert "the scheduler is gone; run it again" in str(thread.error)


def test_workers_of_another_version_are_refused(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "code_hash", lambda *_: "another")
    with pytest.raises(UserError, match="another version of saelib"):
        clusters.connected(to(local), tmp_path).__enter__()


def test_bad_tokens_are_reported_as_in_the_job(local: LocalCluster, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5000, 8))
    values[4321, 3] = np.nan
    with clusters.connected(to(local), tmp_path) as cluster, pytest.raises(UserError, match="the first in row 4321"):
        compute_stats(ArrayRows(values), workers=cluster)


def test_where_it_is_computed_decides_no_key_and_no_byte(local: LocalCluster, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(1).standard_normal((3000, 16)))
    arrays = {"family": "arrays", "files": {0: str(tmp_path / "a.npy")}}
    written = []
    for name, where in (("here", {}), ("there", {"dask": {"scheduler": local.scheduler_address}})):
        suite = {
            "results": str(tmp_path / name),
            "models": {"m": {"domain": "d", "source": arrays, "layers": 0}},
            "extraction": {"tokens": 2000, "heldout_tokens": 200, "chunk_rows": 128, "window_rows": 256},
        }
        config = check_config(suite | where, "test")
        jobs = make_plan(config).jobs
        extract.run(config, jobs["extract/m/layers_0-0"])
        stats_stage.run(config, jobs["stats/m/layers_0-0"])
        written.append([(tmp_path / name / f"stats/m/layer_0.{kind}").read_bytes() for kind in ("json", "safetensors")])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("dask", "said"),
    [
        ({"scheduler": "head:8786"}, "dask.scheduler"),
        ({"scheduler": "tcp://user:word@head:8786"}, "dask.scheduler"),
        ({"slurm": {}}, "dask.slurm.jobs: missing"),
        ({"workers": 3}, "needs `scheduler: tcp://host:port`"),
    ],
)
def test_mistakes_in_the_config(dask: dict, said: str) -> None:
    arrays = {"family": "arrays", "files": {0: "a.npy"}}
    with pytest.raises(UserError, match=said):
        check_config({"models": {"m": {"domain": "d", "source": arrays, "layers": 0}}, "dask": dask}, "test")


SBATCH = """#!/bin/bash
[ "$1" = --test-only ] && exit 0
cp "$1" {folder}/job.$$.sh
setsid bash {folder}/job.$$.sh > {folder}/log.$$ 2>&1 < /dev/null &
echo "$!" >> {folder}/jobs
echo "Submitted batch job $!"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for sbatch and scancel that run what they are given on this machine."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/bash\nkill -- "-$1"\n')):
        (tmp_path / name).write_text(text.format(folder=tmp_path) if name == "sbatch" else text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_workers_from_slurm(slurm: Path, layer: Path) -> None:
    workers = SlurmWorkers(
        jobs=2,
        cores=1,
        memory="1GiB",
        walltime="00:10:00",
        partition="short",
        directives=("--nice=5",),
        wait_seconds=60,
    )
    with clusters.connected(DaskSlurm(slurm=workers), slurm / "logs") as cluster:
        stats = compute_stats(open_store(layer).train, workers=cluster)
    assert_same_bits(compute_stats(open_store(layer).train), stats)
    scripts = [file.read_text() for file in slurm.glob("job.*.sh")]
    assert len(scripts) == 2
    for line in ("#SBATCH -p short", "#SBATCH --nice=5", "#SBATCH -t 00:10:00", f"-o {slurm / 'logs'}"):
        assert all(line in script for script in scripts)
    # Nothing is left running.
    for job in (slurm / "jobs").read_text().split():
        for _ in range(100):
            if subprocess.run(["kill", "-0", "--", f"-{job}"], capture_output=True).returncode:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"job {job} still runs")


def test_slurm_that_is_not_there_or_refuses(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: short' >&2\nexit 1\n")
    config = DaskSlurm(slurm=SlurmWorkers(jobs=1, wait_seconds=5))
    with pytest.raises(UserError, match=r"Slurm refuses the workers.*invalid partition"):
        clusters.connected(config, slurm).__enter__()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no sbatch here"):
        clusters.connected(config, slurm).__enter__()
