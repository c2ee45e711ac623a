"""The training's own flag of death."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saelib.config import TrainConfig
from saelib.config.training import ScheduleConfig
from saelib.train.history import Recorder


def test_a_latent_is_flagged_from_the_example_on_that_fills_its_window():
    recorder: Any = Recorder(TrainConfig(dead_after_examples=100), ScheduleConfig(), [], None)  # type: ignore[arg-type]
    silent, negative = torch.tensor([100, 99, 300, 100]), torch.tensor([100, 99, 0, 99])
    trainer = SimpleNamespace(examples=300, tokens_since_fired=silent, tokens_since_positive=negative)
    assert recorder._flagged(trainer) == pytest.approx({"dead_relu": 0.25, "dead_topk_only": 0.5, "dead_total": 0.75})
    trainer.examples = 99
    assert set(recorder._flagged(trainer).values()) == {None}
