"""SAELens loads our exports, and saves SAEs of its own."""

from pathlib import Path

import torch
from common import Outputs, fill, serve
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig


def load(folder: Path, x: torch.Tensor) -> Outputs:
    sae = SAE.load_from_disk(folder)
    assert sae.cfg.metadata.gamma == 20.0, "our metadata were dropped"
    return sae.encode(x), sae(x)


def make(folder: Path, x: torch.Tensor) -> dict[str, Outputs]:
    sizes = {"d_in": x.shape[1], "d_sae": 40}
    saes = {
        "standard": StandardSAE(StandardSAEConfig(**sizes)),
        "standard_layer_norm": StandardSAE(StandardSAEConfig(**sizes, normalize_activations="layer_norm")),
        "topk": TopKSAE(TopKSAEConfig(**sizes, k=5)),
        "topk_not_centered": TopKSAE(TopKSAEConfig(**sizes, k=5, apply_b_dec_to_input=False)),
        "topk_by_decoder_norm": TopKSAE(TopKSAEConfig(**sizes, k=5, rescale_acts_by_decoder_norm=True)),
        "topk_rescaled": TopKSAE(TopKSAEConfig(**sizes, k=5, normalize_activations="constant_norm_rescale")),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**sizes)),
    }
    for name, sae in saes.items():
        fill(sae, x / x.norm(dim=1, keepdim=True) if "norm" in sae.cfg.normalize_activations else x)
        sae.save_model(folder / name)
    trained = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes, k=5))
    fill(trained, x)
    trained.topk_threshold.fill_(0.5)
    trained.save_inference_model(folder / "batch_topk")
    saes["batch_topk"] = SAE.load_from_disk(folder / "batch_topk")
    return {name: (sae.encode(x), sae(x)) for name, sae in saes.items()}


serve(load, make)
