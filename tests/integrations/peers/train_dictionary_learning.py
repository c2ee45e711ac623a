"""dictionary_learning trains on the stores with its own trainer: as it is, from our start, and without its center."""

from collections.abc import Iterator

import torch
from common import BATCH, D_SAE, STEPS, K, Outcome, Paste, batches, dead, fvu, serve
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from saelib.integrations.dictionary_learning import log_death


def train(x: Tensor, paste: Paste) -> Iterator[Outcome]:
    trainer = TopKTrainer(
        steps=STEPS,
        activation_dim=x.shape[1],
        dict_size=D_SAE,
        k=K,
        layer=0,
        lm_name="",
        lr=3e-4,
        warmup_steps=5,
        seed=0,
        device="cpu",
    )
    paste(trainer=trainer)
    death, rows = log_death(trainer, window=len(x)), x[BATCH:]
    for step, batch in zip(range(STEPS), batches(x), strict=False):
        trainer.update(step, batch)
        if step == 0:  # its learning rate is 0; the bias is the one that training starts from
            with torch.no_grad():
                before = dead(trainer.ae.encode(rows))
    with torch.no_grad():
        after = dead(trainer.ae.encode(rows))
        yield Outcome("topk", before, after, death.rows[-1], fvu(trainer.ae(rows), rows))


def no_center(trainer: TopKTrainer) -> None:
    """Keeps the trainer from moving b_dec to the geometric median of the first batch, as it does at step 0."""
    update = trainer.update
    trainer.update = lambda step, batch: update(max(step, 1), batch)


serve("dictionary_learning", train, no_center)
