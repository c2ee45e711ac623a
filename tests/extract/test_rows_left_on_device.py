"""Rows that a model leaves on its device are those that it gives to the host."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract.batches import Batch, _check_finite, open_batches


def suite(weights: Path, device: str, **options: object) -> Config:
    source = {"family": "transformers", "weights": {"path": str(weights)}, "max_length": 40, **options}
    model = {"domain": "language", "source": source, "dataset": "docs", "layers": "0-3"}
    raw = {
        "datasets": {"docs": {"kind": "python_docs", "characters": 300}},
        "models": {"tiny": model},
        "extraction": {"threads": 1, "device": device},
    }
    return check_config(raw, "suite")


@pytest.mark.parametrize(
    "options", [{}, {"batch_tokens": 60}, {"dtype": "bfloat16"}], ids=["a pass", "several passes", "bfloat16"]
)
def test_they_are_the_same_rows(tiny_gpt2: Path, device: str, options: dict[str, object]) -> None:
    config = suite(tiny_gpt2, device, **options)
    opened = (open_batches("tiny", config, [0, 2, 3], leave=leave)("heldout") for leave in (True, False))
    for number, (left, given) in enumerate(zip(*opened, strict=False)):
        for layer in (0, 2, 3):
            assert isinstance(left.layers[layer], torch.Tensor)
            assert left.layers[layer].device.type == device
            assert left.layers[layer].dtype == torch.float32
            assert not left.layers[layer].is_inference()
            np.testing.assert_array_equal(left.layers[layer].cpu().numpy(), given.layers[layer])
        assert left.example.tolist() == given.example.tolist()
        if number == 3:
            return
    raise AssertionError("too few passes")


def test_bad_values_are_found_on_both(device: str) -> None:
    rows = np.ones((4, 3), np.float32)
    rows[1, 2], rows[3, 0] = np.nan, np.inf
    said = []
    for acts in (rows, torch.from_numpy(rows).to(device)):
        batch = Batch(0, {5: acts}, np.array([7, 7, 8, 9], np.int32), ["a", "b", "c"], first=7)
        with pytest.raises(UserError) as raised:
            _check_finite("toy", batch, "!")
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert said[0].startswith(
        "toy layer 5: 2 of 12 activations in this batch are not finite (1 NaN), in the examples a"
    )
    huge = np.full((2, 2), 3e38, np.float32)  # finite, but not their sum
    for acts in (huge, torch.from_numpy(huge).to(device)):
        _check_finite("toy", Batch(0, {5: acts}, np.zeros(2, np.int32), ["a"], first=0), "!")
