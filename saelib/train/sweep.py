"""One variant on one layer, over all learning rates."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.files import published_file, remove_drafts, write_json
from saelib.preprocess import Preprocess, make_preprocess
from saelib.progress import Advance, progress
from saelib.rows import Rows
from saelib.train.loader import ShuffledBatches
from saelib.train.rate import RateResult, Setting, load_rate, save_rate, train_rate
from saelib.train.space import Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What is trained: names for messages and results."""

    model: str
    layer: int
    variant: str

    def __str__(self) -> str:
        """As messages call it."""
        return f"{self.model} layer {self.layer}, variant {self.variant}"


def train_variant(
    train: Rows,
    heldout: Rows,
    arrays: Mapping[str, NDArray[Any]],
    config: TrainConfig,
    variant: VariantConfig,
    *,
    output: Path,
    key: str,
    seed: int,
    subject: Subject,
    device: str = "auto",
) -> None:
    """Train one SAE for each learning rate, all from the same weights on the same batches, and keep the best.

    Writes `history.parquet`, `weights.safetensors` (of the best rate) and, last, `sweep.json` into `output`. Each
    rate is published in `rates/` once it is done: a job that was killed goes on after its last finished rate, and
    ends with the same bits. What carries another `key` is removed.

    Args:
        train: Rows to train on.
        heldout: Rows of other examples, to measure on.
        arrays: The layer's statistics, as `make_preprocess` takes them.
        config: Sizes, steps and rates.
        variant: What to do with the activations and the loss.
        output: The folder of this variant's results.
        key: What the results depend on, as one hash.
        seed: Of the initial weights and of the batches.
        subject: What is trained.
        device: A name that torch knows, or `auto`: CUDA where there is one, otherwise the CPU.

    Raises:
        UserError: where the rows do not fill a batch, are constant or not finite, none are held out, or every learning
            rate diverged.
    """
    if heldout.shape[0] == 0:
        raise UserError(f"{heldout.name}: no held-out tokens to measure on (extraction.heldout_tokens)")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    preprocess = make_preprocess(variant.preprocessing, arrays)
    space = Space(preprocess, train, device)
    batches = ShuffledBatches(space.prepare(train), config.batch_size, seed=seed, device=device)
    setting = Setting(batches, heldout, space, config, variant.auxk, seed)
    runs, history, best = [], [], None
    for result in _train_rates(setting, output / "rates", key, subject):
        figures = asdict(result.heldout) if result.heldout else {}
        runs.append({"learning_rate": result.learning_rate, "status": result.status, **figures})
        history += result.history
        best = result if best is None or result.score < best.score else best
    if best is None or best.heldout is None:
        raise UserError(
            f"{subject}: training diverged at every learning rate "
            f"({', '.join(f'{rate:g}' for rate in config.learning_rates)}); add a smaller one to train.learning_rates"
        )
    found = {"best_learning_rate": best.learning_rate, "runs": runs}
    sweep = {"key": key, **asdict(subject), **variant.model_dump(), **_describe(setting, train, preprocess), **found}
    _publish(output, sweep, history, _with_preprocess(best.weights, preprocess))


def _describe(setting: Setting, train: Rows, preprocess: Preprocess) -> dict[str, Any]:
    return {
        # Where no map leads back from the space an SAE was trained in, its errors are those of that space.
        "errors_in": "layernormed activations" if preprocess.token_norm == "layernorm" else "activations",
        "d_in": preprocess.d_in,
        **setting.config.model_dump(include={"d_sae", "k", "steps", "batch_size"}),
        "seed": setting.seed,
        "train_tokens": train.shape[0],
        "heldout_tokens": setting.heldout.shape[0],
    }


def _train_rates(setting: Setting, folder: Path, key: str, subject: Subject) -> Iterator[RateResult]:
    """The result of each learning rate, in the order of the config."""
    rates = setting.config.learning_rates
    with progress(f"train {subject}", len(rates) * setting.config.steps, "steps", log) as advance:
        for number, rate in enumerate(rates, 1):
            title = f"rate {rate:g} ({number} of {len(rates)})"
            yield _train_or_load(setting, rate, folder / f"{rate!r}.safetensors", key, advance, title)


def _train_or_load(setting: Setting, rate: float, path: Path, key: str, advance: Advance, title: str) -> RateResult:
    result = load_rate(path, key)
    if result is not None:
        advance(setting.config.steps, f"{title}: done before")
        return result
    result = train_rate(setting, rate, lambda steps, note: advance(steps, f"{title}: {note}"))
    save_rate(result, path, key)
    if result.status == "diverged":
        log.warning("%s: diverged", title)
        advance(setting.config.steps - result.history[-1]["step"], f"{title}: diverged")
    return result


def _with_preprocess(weights: dict[str, Tensor], preprocess: Preprocess) -> dict[str, Tensor]:
    """Add what turns an activation into what the SAE reads: x -> (x - preprocess_center) @ preprocess_scale."""
    if preprocess.scale is None:
        return weights
    return weights | {
        "preprocess_center": torch.from_numpy(preprocess.center.astype(np.float32)),
        "preprocess_scale": torch.from_numpy(preprocess.scale).contiguous(),
    }


def _publish(output: Path, sweep: dict[str, Any], history: list[dict[str, Any]], weights: dict[str, Tensor]) -> None:
    """Put the results in place, `sweep.json` last; then the rates, and what other keys left there, have served."""
    remove_drafts(output)
    # An earlier sweep.json must not vouch for the files that are about to be replaced.
    (output / "sweep.json").unlink(missing_ok=True)
    whole = {"step", "examples", "flagged_dead"}
    schema = {name: pl.Int64 if name in whole else pl.Float64 for name in history[0]}
    with published_file(output / "history.parquet") as draft:
        pl.DataFrame(history, schema=schema).write_parquet(draft)
    with published_file(output / "weights.safetensors") as draft:
        described = {name: sweep[name] for name in ("key", "k", "preprocessing", "errors_in")}
        save_file(weights, draft, metadata={"saelib": json.dumps(described)})
    write_json(output / "sweep.json", sweep)
    shutil.rmtree(output / "rates", ignore_errors=True)
