"""Prints SAEBench's core metrics of the SAEs in FOLDER/saes on the activations in FOLDER/x.npy, as JSON.

It runs where sae-bench is installed. The model is a table of activations [prompts, context, d], and each token of a
prompt is the number of the prompt. Usage: core_sae_bench.py FOLDER PROMPTS_PER_BATCH...
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sae_bench.evals.core.main import calculate_misc_metrics, get_sparsity_and_variance_metrics
from sae_lens import SAE

HERE = "here"


@torch.no_grad()
def measure(sae: Any, x: torch.Tensor, batch: int) -> dict[str, float]:
    prompts, context, _ = x.shape
    batches = iter(torch.arange(prompts)[:, None].expand(prompts, context).split(batch))
    cfg = SimpleNamespace(hook_name=HERE, hook_head_index=None, hook_layer=0, d_sae=sae.cfg.d_sae)
    metrics, by_latent = get_sparsity_and_variance_metrics(
        SimpleNamespace(cfg=cfg, device="cpu", encode=sae.encode, decode=sae.decode),
        SimpleNamespace(run_with_cache=lambda tokens, **_: (None, {HERE: x[tokens[:, 0]]})),
        SimpleNamespace(get_batch_tokens=lambda size: next(batches)),
        n_batches=prompts // batch,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        eval_batch_size_prompts=batch,
        model_kwargs={},
    )
    unused = dict.fromkeys(("max_encoder_cosine_sim", "max_decoder_cosine_sim"), torch.zeros(1))
    return metrics | calculate_misc_metrics({"feature_density": torch.tensor(by_latent["feature_density"]), **unused})


def main(folder: Path, sizes: list[int]) -> None:
    x = torch.from_numpy(np.load(folder / "x.npy"))
    saes = {path.name: SAE.load_from_disk(path) for path in (folder / "saes").iterdir()}
    print(json.dumps({name: {size: measure(sae, x, size) for size in sizes} for name, sae in saes.items()}))


main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
