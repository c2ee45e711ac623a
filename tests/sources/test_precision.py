"""A float32 pass is exact on any device: torch's switches are off inside, and afterwards as they were before."""

import sys
from typing import Any

import pytest
import torch

from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract.batches import open_batches
from saelib.pipeline.plan import Job
from saelib.pipeline.targets import Target
from saelib.sources.precision import PLACES, exact_float32
from saelib.train import stage

b: Any = torch.backends


def switches() -> dict[str, object]:
    """Returns the state of every switch of torch; None for those that it refuses to tell."""
    found: dict[str, object] = {}
    for name, read in {
        "cudnn": lambda: b.cudnn.allow_tf32,
        "matmul": lambda: b.cuda.matmul.allow_tf32,
        "precision": torch.get_float32_matmul_precision,
    }.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = None
    for place in PLACES:
        part = b
        for name in place.split(".") if place else ():
            part = getattr(part, name)
        found[place] = part.fp32_precision
    return found


EXACT = {"cudnn": False, "matmul": False, "precision": "highest", **dict.fromkeys(PLACES, "ieee")}


def older() -> None:
    b.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def newer() -> None:
    b.fp32_precision = "tf32"
    b.cudnn.conv.fp32_precision = "tf32"
    b.cuda.matmul.fp32_precision = "tf32"
    b.mkldnn.conv.fp32_precision = "bf16"


@pytest.fixture(autouse=True)
def as_torch_starts():
    yield
    for place in reversed(PLACES):
        part = b
        for name in place.split(".") if place else ():
            part = getattr(part, name)
        part.fp32_precision = "none"
    older()
    torch.set_float32_matmul_precision("highest")
    b.cuda.matmul.fp32_precision = b.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize("setting", [lambda: None, older, newer])
def test_all_switches_are_off_inside_and_as_before_afterwards(setting):
    setting()
    before = switches()
    assert before != EXACT
    with exact_float32():
        assert switches() == EXACT
        with exact_float32():
            assert switches() == EXACT
        assert switches() == EXACT
    assert switches() == before
    with exact_float32():
        newer()
    assert switches() == before


PLUGIN = """
import numpy as np
import torch
from saelib.sources import Activations

seen = []

class Source:
    n_layers = 0

    def d_in(self, layer):
        return 1

    def forward(self, examples, layers):
        b = torch.backends
        seen.append((b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()))
        return Activations({0: np.ones((len(examples), 1), np.float32)}, [1] * len(examples))

def open_source(options, device, dtype):
    torch.set_float32_matmul_precision("medium")  # as people do at the top of their code
    return Source()
"""


def test_a_models_passes_are_exact_whatever_its_own_code_switches_on(tmp_path):
    file = tmp_path / "watching.py"
    file.write_text(PLUGIN)
    source = {"family": "plugin", "file": {"path": str(file)}, "dtype": "float32"}
    models = {"m": {"domain": "d", "source": source, "dataset": "docs", "layers": 0}}
    config = check_config({"datasets": {"docs": {"kind": "python_docs"}}, "models": models}, "test")
    before = switches()
    batches = open_batches("m", config, [0])
    assert switches() == before
    assert len(next(iter(batches("train"))).layers[0])
    assert sys.modules["saelib_plugin_watching"].seen == [(False, False, "highest")]
    assert switches() == before


def test_training_is_exact_too(monkeypatch, tmp_path):
    files = {"family": "arrays", "files": {0: "x.npy"}}
    config = check_config({"models": {"m": {"domain": "d", "source": files, "layers": 0}}}, "test")
    seen = []

    def stop(path):
        seen.append(switches())
        raise UserError("far enough")

    monkeypatch.setattr(stage, "open_store", stop)
    older()
    job = Job("train", "m", (Target("train", str(tmp_path / "sweep.json"), "key", "m", 0, "baseline"),), ())
    with pytest.raises(UserError, match="far enough"):
        stage.run(config, job)
    assert seen == [EXACT]
    assert switches() != EXACT
