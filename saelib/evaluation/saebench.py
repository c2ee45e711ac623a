"""Core figures of an SAE in the layout of SAEBench's result files."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from saelib.evaluation.layer_result import CELossFigures, CoreFigures, SAEEvaluation
from saelib.files.publish import published_file


def saebench_result(core: CoreFigures, name: str, loss: CELossFigures | None = None, **about: Any) -> dict[str, Any]:
    """Gives the object of a result file of SAEBench's evaluation `core`.

    What was not measured is left out: KL divergence always, and the loss if there is none. `mse` and
    `explained_variance` differ from SAEBench's own, whose definitions depend on batches (docs/evaluation.md).

    Args:
        core: Figures over all tokens.
        name: The name of the SAE.
        loss: The model's loss with its reconstructions.
        about: Entries of `sae_cfg_dict`, such as `model_name`, `d_in`, `d_sae`, `k`.
    """
    metrics: dict[str, dict[str, Any]] = {
        "reconstruction_quality": _pick(core, "explained_variance", "mse", "cossim"),
        "shrinkage": _pick(core, "l2_ratio", "relative_reconstruction_bias"),
        "sparsity": _pick(core, "l0"),
        "token_stats": {"total_tokens_eval_sparsity_variance": core.tokens},
        "misc_metrics": _pick(core, "freq_over_1_percent"),
    }
    if loss is not None:
        metrics["model_performance_preservation"] = {k: v for k, v in vars(loss).items() if k != "tokens"}
        metrics["token_stats"]["total_tokens_eval_reconstruction"] = loss.tokens
    return {
        "eval_type_id": "core",
        "eval_config": {"model_name": about.get("model_name", "")},
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": metrics,
        "eval_result_details": [],
        "sae_lens_id": name,
        "sae_lens_release_id": "saelib",
        "sae_cfg_dict": about,
    }


def saebench_of(found: SAEEvaluation) -> dict[str, Any]:
    """Gives the same for an SAE of a suite's evaluation (`load_layer`)."""
    about = {"model_name": found.model, "hook_layer": found.layer, "architecture": found.kind}
    sizes = {"d_in": found.d_in, "d_sae": found.d_sae, "k": found.k}
    return saebench_result(found.all, found.sae, found.ce_loss, **about, **sizes)


def write_saebench(result: dict[str, Any], path: Path) -> None:
    """Writes a result file. SAEBench expects a name that ends in `_eval_results.json`."""
    with published_file(path) as draft:
        draft.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def _pick(core: CoreFigures, *names: str) -> dict[str, float | None]:
    return {name: getattr(core, name) for name in names}
