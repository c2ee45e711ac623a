"""The check for a GPU runs on a CPU, keeps its laws there, notices broken ones, and saves what it has measured."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import command, contend, methods
from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Report, Row, Section
from benchmarks.gpu.runner import run_sections
from benchmarks.gpu.sections import SECTIONS, correctness, steps, waits
from saelib.config import VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer

ROOT = Path(__file__).parents[2]
TINY = Card("cpu", tiny=True, deadline=float("inf"))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The JSON that a tiny run of every section prints, and the folder of its report."""
    folder = tmp_path_factory.mktemp("gpu")
    options = ["--cpu", "--tiny", "--json", "--out", str(folder)]
    arguments = [sys.executable, "-m", "benchmarks", "gpu", *options]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_every_section_runs_on_a_cpu_and_no_law_is_broken(tiny_run: tuple[dict[str, Any], Path]) -> None:
    report, _ = tiny_run
    assert report["complete"]
    assert [section["name"] for section in report["sections"]] == list(SECTIONS)
    assert all(section["state"] == "done" and not section["broken"] for section in report["sections"])
    assert all(row["figures"] or row["note"] for section in report["sections"] for row in section["rows"])
    with_laws = {section["name"] for section in report["sections"] if any(row["bounds"] for row in section["rows"])}
    others = {"correctness", "waits", "evaluation", "loader", "init_death", "statistics", "extraction", "one_pass"}
    assert with_laws == others


def test_every_method_is_compared_with_float64(tiny_run: tuple[dict[str, Any], Path]) -> None:
    rows = {row["name"]: row for row in tiny_run[0]["sections"][0]["rows"]}
    assert set(rows) == set(methods.methods())
    assert all(0 < row["figures"]["gradient error"] <= row["bounds"]["gradient error"] for row in rows.values())


def test_the_report_is_saved_for_programs_and_for_a_document(tiny_run: tuple[dict[str, Any], Path]) -> None:
    report, folder = tiny_run
    assert json.loads((folder / "report.json").read_text()) == report
    page = (folder / "report.md").read_text()
    assert page.startswith("## On a GPU")
    assert page.count("\n### ") == len(SECTIONS)
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", "speeds.json"}


def test_steps_are_saved_for_projections(tiny_run: tuple[dict[str, Any], Path]) -> None:
    report, folder = tiny_run
    speeds = json.loads((folder / "speeds.json").read_text())
    assert speeds["command"].startswith("python -m benchmarks gpu --cpu --tiny")
    assert speeds["environment"] == report["environment"]
    (section,) = (section for section in report["sections"] if section["name"] == "steps")
    rows = {row["name"]: row["figures"] for row in section["rows"]}
    assert {step["precision"] for step in speeds["steps"]} == {"float32", "tf32", "bfloat16"}
    for step in speeds["steps"]:
        assert step["ms"] == rows[f"{step['d_in']} -> {step['d_sae']}: saelib, {step['precision']}"]["ms"]


@pytest.mark.parametrize("method", ["topk, auxk", "batch_topk, ghost_grads", "relu", "jumprelu"])
def test_a_loss_that_lacks_a_term_breaks_a_law(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = methods.methods()[method]
    monkeypatch.setattr(correctness, "methods", lambda: {method: variant})
    assert not next(correctness.rows(TINY)).broken

    def mse_alone(self: TorchTrainer, x: torch.Tensor, result: Any) -> torch.Tensor:
        return (x - result.x_hat).square().sum() / (len(x) * self.settings.variance)

    monkeypatch.setattr(TorchTrainer, "_loss", mse_alone)
    assert "gradient error" in next(correctness.rows(TINY)).broken[0]


@pytest.mark.parametrize(
    "read", [lambda fired: bool(fired.any()), torch.nonzero, torch.Tensor.cpu, torch.Tensor.tolist]
)
def test_a_step_that_reads_a_value_from_its_device_breaks_a_law(
    read: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "methods", lambda: {"topk": VariantConfig()})
    assert not next(waits.rows(TINY)).broken
    monkeypatch.setattr(TorchTrainer, "_count", lambda self, result, tokens: read(result.fired))
    assert "waits for the host is 1, allowed 0" in next(waits.rows(TINY)).broken[0]


def test_a_broken_law_and_a_failed_section_end_in_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(card: Card) -> Iterator[Row]:
        raise RuntimeError("the cable is loose")

    def nan(card: Card) -> Iterator[Row]:
        yield Row("case", {"error": float("nan")}, {"error": 1e-4})

    modules = {"toys": fails, "pieces": nan}
    monkeypatch.setattr(command.importlib, "import_module", lambda name: RowsOf(modules[name.rpartition(".")[2]]))
    with pytest.raises(SystemExit) as stopped:
        command.main(["--cpu", "--tiny", "--only", "toys", "--only", "pieces", "--out", str(tmp_path)])
    assert "failed: toys: RuntimeError: the cable is loose" in str(stopped.value.code)
    assert "broken: pieces: case: error is nan, allowed 1.0e-04" in str(stopped.value.code)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert [(section["name"], section["state"]) for section in saved["sections"]] == [
        ("toys", "failed"),
        ("pieces", "done"),
    ]
    assert "BROKEN" in capsys.readouterr().out


class RowsOf:
    """A section's module."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows


def test_what_was_measured_before_the_time_ran_out_is_saved() -> None:
    def rows(card: Card) -> Iterator[Row]:
        yield Row("first", {"ms": 1.0})
        object.__setattr__(card, "deadline", time.monotonic())
        yield Row("second", {"ms": 2.0})
        raise AssertionError("goes on although the time is over")

    report = Report("CPU", {}, [Section("one", "One."), Section("two", "Two.")])
    saved = []
    card = Card("cpu", tiny=True, deadline=time.monotonic() + 3600)
    run_sections(report, lambda name: rows, card, lambda line: None, lambda report: saved.append(report.to_dict()))
    assert [len(one["sections"][0]["rows"]) for one in saved] == [1, 2, 2]
    assert [section["state"] for section in saved[-1]["sections"]] == ["cut off", "waiting"]
    assert not saved[-1]["complete"]
    assert "Not complete (cut off)" in report.to_markdown()
    assert "Two." not in report.to_markdown()


def test_a_library_of_others_is_timed_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = TINY.setting(precision="bfloat16")
    monkeypatch.setattr(contend, "MODULES", {"eager": "torch", "sparsify": "torch"})
    monkeypatch.setattr(contend, "python_of", lambda name: None)
    assert contend.peer_pace("eager", setting, 1).ms > 0
    timed = steps._of_peer("", "eager", setting, 1, {"bfloat16": 1.0}, Row("ours", {"ms": 1e-9, "peak, GB": 1.0}))
    assert float(timed.figures["this / saelib"]) > 1e3
    assert "peak of saelib / this" not in timed.figures  # no peak is known on a CPU
    stopped = steps._of_peer("", "sparsify", setting, 1, {"bfloat16": 1.0}, Row("ours"))
    assert not stopped.figures
    assert "stopped: ModuleNotFoundError: No module named 's" in stopped.note


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_what_can_be_done() -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main([])
    assert "--cpu --tiny" in str(stopped.value.code)
