"""Train one SAE at one learning rate, and keep or recover what came of it as one file."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saelib.config import TrainConfig
from saelib.errors import UserError
from saelib.files import published_file
from saelib.rows import Rows
from saelib.train.evaluate import Evaluation, evaluate
from saelib.train.loader import ShuffledBatches
from saelib.train.model import TopKSAE
from saelib.train.space import Space
from saelib.train.trainer import Trainer

PROBE_ROWS = 2_048
"""Held-out rows, the first ones, that every row of the history is measured on."""
DIVERGED = 1e3
"""An error this many times the initial one, or one that is not finite, ends a run."""


@dataclass(frozen=True)
class Setting:
    """What the learning rates of a sweep share."""

    batches: ShuffledBatches
    heldout: Rows
    """As stored."""
    space: Space
    config: TrainConfig
    auxk: bool
    seed: int
    """Of the initial weights."""


@dataclass(frozen=True)
class RateResult:
    """What came of one learning rate."""

    learning_rate: float
    status: Literal["ok", "diverged"]
    heldout: Evaluation | None
    """Over all held-out rows; None where training diverged."""
    history: list[dict[str, Any]]
    """One row each `record_every` steps, from step 0 on: an `Evaluation` of the probe, and where training stands."""
    weights: dict[str, Tensor]
    """W_enc, W_dec, b_enc, b_dec on the CPU; empty where training diverged."""

    @property
    def score(self) -> float:
        """What learning rates are compared by, smaller is better: the normalized mse."""
        return self.heldout.normalized_mse if self.heldout else math.inf


def train_rate(setting: Setting, learning_rate: float, report: Callable[[int, str], None]) -> RateResult:
    """Train one SAE and measure it.

    `report` is called at each recorded step with the steps done since the last one, and a note.

    Raises:
        UserError: where the held-out rows are constant or not finite.
    """
    config, space, heldout = setting.config, setting.space, setting.heldout
    start = torch.Generator().manual_seed(setting.seed)
    sae = TopKSAE(len(space.trained.mean), config.d_sae, config.k, start)
    with torch.no_grad():
        sae.b_dec.copy_(space.initial_bias())
    sae.to(space.device)
    trainer = Trainer(sae, config, auxk=setting.auxk, learning_rate=learning_rate, variance=space.trained.variance)
    probe = list(space.samples(heldout, min(PROBE_ROWS, heldout.shape[0])))
    initial = _finite(evaluate(sae, probe, space), heldout)
    history = [_history_row(trainer, 0, initial, space)]
    for step, batch in enumerate(islice(setting.batches.batches(), config.steps), 1):
        trainer.step(batch)
        if step % config.record_every == 0 or step == config.steps:
            measured = evaluate(sae, probe, space)
            note = f"normalized mse {measured.normalized_mse:.4g}, {100 * measured.dead_total:.1f} % dead"
            report(step - history[-1]["step"], note)
            history.append(_history_row(trainer, step, measured, space))
            if not measured.mse <= DIVERGED * initial.mse:
                return RateResult(learning_rate, "diverged", None, history, {})
    final = _finite(evaluate(sae, space.samples(heldout, heldout.shape[0]), space), heldout)
    weights = {name: value.detach().cpu().contiguous() for name, value in sae.named_parameters()}
    return RateResult(learning_rate, "ok", final, history, weights)


def _finite(measured: Evaluation, heldout: Rows) -> Evaluation:
    """What was measured with weights that are known to be finite."""
    if not all(map(math.isfinite, asdict(measured).values())):
        raise UserError(f"{heldout.name}: the held-out activations are constant or not finite; nothing can be measured")
    return measured


def _history_row(trainer: Trainer, step: int, measured: Evaluation, space: Space) -> dict[str, Any]:
    # A whitening takes the mean away, and with it what there is to capture.
    mean, b_dec = space.trained.mean, trainer.sae.b_dec.detach()
    capture = math.nan if space.whitens else (b_dec @ mean / (mean @ mean)).item()
    figures = {**asdict(measured), "bias_capture": capture}
    return {
        "learning_rate": trainer.learning_rate,
        "step": step,
        "examples": trainer.examples,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "flagged_dead": int(trainer.flagged.sum()),
    }


def save_rate(result: RateResult, path: Path, key: str) -> None:
    """Publish a result as one safetensors file: the weights, and everything else as JSON in its header."""
    record = {
        "key": key,
        "learning_rate": result.learning_rate,
        "status": result.status,
        "heldout": asdict(result.heldout) if result.heldout else None,
        "history": result.history,
    }
    with published_file(path) as draft:
        save_file(result.weights, draft, metadata={"saelib": json.dumps(record, allow_nan=False)})


def load_rate(path: Path, key: str) -> RateResult | None:
    """A published result; None where there is none that carries `key`."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["saelib"])
            if record.pop("key") != key:
                return None
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        heldout = record.pop("heldout")
        return RateResult(**record, heldout=Evaluation(**heldout) if heldout else None, weights=weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
