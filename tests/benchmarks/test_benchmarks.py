"""The benchmarks run and say what they measured. How fast is theirs to print, not a test's to judge."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import lab, seeds, streaming, training
from benchmarks.contenders.worker import Setting
from saelib.config.load import check_config
from saelib.extract.stage import extract
from saelib.stats import compute_stats, save_stats
from saelib.store import open_store
from saelib.train.sweep import Subject

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> Any:
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_stats() -> None:
    report = benchmark("stats", "--tokens", "3000", "--d-in", "64", "--repeats", "1", "--memory-tokens", "20000")
    assert {"floor", "one pass", "textbook"} <= set(report["cpu_seconds"])
    assert report["peak_bytes"] >= 0
    assert report["environment"]["blas"]


def test_concepts() -> None:
    sizes = {"tokens": 400, "latents": 32, "k": 4, "concepts": 5, "loop-latents": 2}
    report = benchmark("concepts", *(text for name, size in sizes.items() for text in (f"--{name}", str(size))))
    assert report["ratio"] == report["loop_s"] / report["ours_s"]
    assert {"tokens", "labels", "environment"} <= set(report)


def test_an_unknown_name_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert all(name in done.stderr for name in ("stats", "init_death", "extract"))


def test_training() -> None:
    tiny = Setting(d_in=16, d_sae=64, k=4, batch_size=128, threads=1, dead=32, k_aux=8)
    case = training.Case("tiny", tiny, {name: {} for name in ("saelib", "floor", "eager")}, steps=2)
    options = argparse.Namespace(threads=1, rounds=1, quick=True, avx2=False)
    found = training.run(case, options)
    assert set(found) == {"saelib", "floor", "eager"}
    assert all(figures["ms"] > 0 and figures["peak_mb"] > 0 for figures in found.values())
    assert {"ours_ms", "eager_ms", "floor_ms", "peak_memory_mb", "peers"} <= set(training.headline({"topk": found}))
    assert len(training.table(case, found)) == 4


@pytest.mark.parametrize("dead", [0, 12])
def test_lab(dead: int) -> None:
    tiny = Setting(d_in=16, d_sae=24, k=4, batch_size=128, threads=2, dead=dead, k_aux=8)
    options = argparse.Namespace(threads=2, rounds=1, quick=True, avx2=False)
    found = training.run(lab.case(tiny, 3, ("eager",)), options)
    assert set(found) == {"population", "eager"}
    lines = lab.table(tiny, {name: 1e3 / figures["ms"] for name, figures in found.items()}, found)
    assert [line.split()[0] for line in lines[1:]] == ["population", "eager"]


def test_streaming(tmp_path: Path) -> None:
    """On a model of files; a buffer of all rows is a store in all but the order."""
    rng = np.random.default_rng(0)
    files = {}
    for layer in (1, 2):
        centers = np.repeat(rng.standard_normal((20, 16)), 256, axis=0)
        np.save(tmp_path / f"{layer}.npy", (centers + rng.standard_normal((5120, 16)) / 2).astype(np.float32))
        files[layer] = str(tmp_path / f"{layer}.npy")
    model = {"domain": "none", "source": {"family": "arrays", "files": files}, "layers": "1-2"}
    raw = {"models": {"m": model}, "extraction": {"tokens": 4096, "heldout_tokens": 1024}}
    config = check_config(raw | {"train": {"d_sae": 64, "k": 2, "batch_size": 128}}, "benchmark")
    setting = streaming.Setting(config, "m", (1, 2), buffer_rows=1024)
    recorded = streaming.record(setting)
    costs = streaming.measure_costs(setting, recorded, tmp_path, repeats=1)
    assert costs["floor"] > 0
    assert costs["disk"] > 2 * 5120 * 16 * 2  # both layers, float16
    whole, *_, smallest = streaming.measure_errors(setting, recorded, tmp_path, 64, seeds=3)[1:]
    assert (whole["buffer_rows"], smallest["buffer_rows"]) == (4096, 64)
    assert abs(np.mean(whole["ratios"]) - 1) < 0.05
    assert len(streaming.cost_lines(setting, costs)) == 6


def test_seeds(tmp_path: Path) -> None:
    """On the results of a small suite: each seed gives another SAE, and nothing of the results changes."""
    x = np.random.default_rng(0).standard_normal((1536, 16)).astype(np.float32) + 1
    np.save(tmp_path / "1.npy", x)
    model = {"domain": "none", "source": {"family": "arrays", "files": {1: str(tmp_path / "1.npy")}}, "layers": "1"}
    raw = {
        "results": str(tmp_path / "results"),
        "models": {"m": model | {"representative_layer": 1}},
        "extraction": {"tokens": 1024, "heldout_tokens": 512, "chunk_rows": 256},
        "train": {"d_sae": 64, "k": 2, "batch_size": 128, "steps": 20, "variants": {"baseline": {}}},
    }
    config = check_config(raw, "benchmark")
    extract("m", config, {1: "key"}, {1: config.store_path("m", 1)})
    save_stats(compute_stats(open_store(config.store_path("m", 1)).train), config.stats_path("m", 1), "key")
    found = seeds.train(config, Subject("m", 1, "baseline"), seeds=3)
    assert set(found.figures) == set(seeds.FIGURES)
    assert len(set(found.figures["variance_explained"])) == 3
    assert not (tmp_path / "results" / "train").exists()
    middle, low, high = (round(f(found.figures["token_fvu_median"]), 3) for f in (np.median, min, max))
    assert f"{middle:.3f} ({low:.3f} to {high:.3f})" in seeds.line(found)
