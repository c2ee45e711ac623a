"""The training's own flag of death."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saelib.train.history import dead_shares


def test_a_latent_is_flagged_from_the_example_on_that_fills_its_window():
    silent, negative = torch.tensor([100, 99, 300, 100]), torch.tensor([100, 99, 0, 99])
    trainer: Any = SimpleNamespace(examples=300, tokens_since_fired=silent, tokens_since_positive=negative)
    assert dead_shares(trainer, 100) == pytest.approx({"dead_relu": 0.25, "dead_topk_only": 0.5, "dead_total": 0.75})
    trainer.examples = 99
    assert set(dead_shares(trainer, 100).values()) == {None}
