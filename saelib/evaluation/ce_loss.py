"""Measures the share of a model's loss that is recovered if reconstructions replace activations, as in SAEBench."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.config.sites import Layer, LayerSite
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.evaluation.layer_result import CELossFigures
from saelib.progress import progress

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MASKED = 0.15
"""Share of the tokens that a masked model has to predict, as in BERT's training."""
SMALL_GAP = 0.1
"""Share of itself by which the loss should rise with zeros in a layer; below it, there is little to recover."""
Reconstruct = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Turns activations [tokens, d_in] into an SAE's reconstructions of them."""


class Predictor(NamedTuple):
    """A model with the head that predicts tokens."""

    source: Any
    """A `saelib.sources.tokens.TokenSource` whose model returns logits."""
    mask_id: int | None
    """The mask token; None for a model that predicts the next token."""


def ce_losses(
    predictor: Predictor,
    examples: Iterator[Example],
    layer: Layer,
    saes: Mapping[str, Reconstruct],
    tokens: int,
    batch_size: int,
    seed: int = 0,
) -> dict[str, CELossFigures]:
    """Measures the loss of a model as it is, with its activations set to 0, and with each SAE's reconstructions.

    Only the tokens that the source records are replaced, because no SAE has read the others. Language models predict
    every such token from those before it, and masked models 15 % of them, which are drawn once for all SAEs.

    Args:
        predictor: The model.
        examples: Texts or sequences.
        layer: The layer whose residual stream is replaced.
        saes: Reconstruction of each SAE, by name.
        tokens: Predicted tokens, about.
        batch_size: Examples of a pass.
        seed: Decides which tokens are masked.

    Raises:
        UserError: If the layer is not a residual stream after a block, or if there is no token to predict.
    """
    if isinstance(layer, LayerSite) or layer < 1:
        raise UserError(f"layer {layer}: the loss is measured at the residual stream of layer 1 or later")
    changes: dict[str, Reconstruct | None] = {"without": None, "ablation": np.zeros_like, **saes}
    sums, predicted = dict.fromkeys(changes, 0.0), 0
    rng = np.random.default_rng(seed)
    with progress(f"predict with {len(saes)} SAEs", tokens * len(changes), "tokens", log) as advance:
        while predicted < tokens and (chunk := list(islice(examples, batch_size))):
            for batch in _batches(predictor, chunk, rng):
                predicted += len(batch.wanted)
                for name, change in changes.items():
                    sums[name] += _loss(predictor, batch, layer, change)
                    advance(len(batch.wanted))
    if not predicted:
        raise UserError("there is no token to predict")
    losses = {name: total / predicted for name, total in sums.items()}
    gap = losses["ablation"] - losses["without"]
    return {
        name: CELossFigures(
            predicted,
            losses["ablation"],
            losses[name],
            losses["without"],
            (losses["ablation"] - losses[name]) / gap if gap else None,
        )
        for name in saes
    }


class _Batch(NamedTuple):
    ids: "torch.Tensor"
    """[rows, tokens], with masked tokens replaced."""
    mask: "torch.Tensor"
    keep: "torch.Tensor"
    """[rows, tokens]: tokens whose activations are replaced."""
    targets: "torch.Tensor"
    """[rows, tokens]: tokens to predict."""
    wanted: "torch.Tensor"
    """[targets]: their ids."""


def why_unreliable(figures: CELossFigures) -> str | None:
    """Says so if zeros hardly change the loss, because a score then divides by next to nothing; otherwise None."""
    own, zeros = figures.ce_loss_without_sae, figures.ce_loss_with_ablation
    if zeros - own > SMALL_GAP * zeros:
        return None
    return (
        f"the model's own loss ({own:.2f}) is hardly better than with activations of zero ({zeros:.2f}), so the loss "
        "recovered means little: the model may not know such data"
    )


def _batches(predictor: Predictor, examples: Sequence[Example], rng: np.random.Generator) -> Iterator[_Batch]:
    import torch

    source = predictor.source
    tokens = [source._tokenize(str(example.content)) for example in examples]
    rows = [row for number, one in enumerate(tokens) for row in source._rows(number, one) if row.ids]
    for group in source._passes(rows):
        ids, mask, keep = source._pad([rows[i] for i in group])
        targets = keep.clone()
        if predictor.mask_id is None:
            targets[:, 0] = False  # nothing comes before it
        else:
            targets &= torch.from_numpy(rng.random(tuple(keep.shape)) < MASKED).to(keep.device)
        wanted = ids[targets]
        read = ids if predictor.mask_id is None else ids.masked_fill(targets, predictor.mask_id)
        if len(wanted):
            yield _Batch(read, mask, keep, targets, wanted)


def _loss(predictor: Predictor, batch: _Batch, layer: int, change: Reconstruct | None) -> float:
    """Computes the summed cross entropy of a batch, in nats."""
    import torch

    source = predictor.source
    with torch.inference_mode(), _replaced(source, layer, batch.keep, change):
        found = source._call(batch.ids, batch.mask)
        logits = found["logits"]
        places = batch.targets if predictor.mask_id is not None else batch.targets.roll(-1, dims=1)
        chosen = logits[places].float()  # the logits before a token predict it
        return torch.nn.functional.cross_entropy(chosen, batch.wanted, reduction="sum").item()


@contextmanager
def _replaced(source: Any, layer: int, keep: "torch.Tensor", change: Reconstruct | None) -> Iterator[None]:
    """Replaces the residual stream after a block, at the tokens `keep`, while a forward pass runs inside."""
    import torch

    def replace(module: Any, args: Any, output: Any) -> None:
        assert change is not None
        stream = source._stream(output)
        acts = stream[keep]
        changed = change(acts.float().cpu().numpy()).astype(np.float32)
        stream[keep] = torch.from_numpy(changed).to(stream.device, stream.dtype)

    handle = None if change is None else source._blocks[layer - 1].register_forward_hook(replace)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
