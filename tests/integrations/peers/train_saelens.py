"""SAELens trains on the stores with its own trainer, with and without our start."""

from collections.abc import Iterator

import torch
from common import BATCH, D_SAE, STEPS, K, Outcome, Paste, batches, dead, fvu, serve
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from saelib.integrations.saelens import log_death


def train(x: Tensor, paste: Paste) -> Iterator[Outcome]:
    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=D_SAE, k=K))
    paste(sae=sae)
    death, rows = log_death(sae, window=len(x)), x[BATCH:]
    with torch.no_grad():
        before = dead(sae.encode(rows))
    settings = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=3e-4,
        lr_end=3e-4,
        dead_feature_window=1000,
        device="cpu",
        autocast=False,
        n_checkpoints=0,
        checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, batches(x)).fit()
    with torch.no_grad():
        yield Outcome("topk", before, dead(sae.encode(rows)), death.rows[-1], fvu(sae(rows), rows))


serve("saelens", train)
