"""Stage `evaluate`: measures all SAEs of a model's layers in one pass over held-out examples."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.config.sites import Layer, in_order
from saelib.config.sources import ArraysSource
from saelib.devices.cards import job_device
from saelib.errors import UserError
from saelib.evaluation.ce_loss import ce_losses, why_unreliable
from saelib.evaluation.heads import open_predictor
from saelib.evaluation.held_out import HeldOut, SeenTables
from saelib.evaluation.judged import reconstruct
from saelib.evaluation.layer_pass import LayerPass
from saelib.evaluation.layer_report import finish_layer, open_context
from saelib.evaluation.layer_result import CELossFigures
from saelib.files.publish import published_folder, remove_drafts
from saelib.progress import progress
from saelib.sources.precision import exact_float32

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Evaluates the SAEs of each target's layer; all targets are of one model, which runs once.

    Raises:
        UserError: If an SAE is missing, or if the labels or embeddings do not fit the examples.
    """
    assert config.evaluation is not None
    name, tokens = job.targets[0].model, config.evaluation.tokens
    keys = {target.layer: target.key for target in job.targets}
    folders = {target.layer: target.output.parent for target in job.targets}
    held_out = HeldOut(config, name)
    seen = SeenTables(held_out.kind)
    with ExitStack() as stack:
        stack.enter_context(exact_float32())
        for folder in folders.values():
            remove_drafts(folder.parent, f"{folder.name}.")
        drafts = {layer: stack.enter_context(published_folder(folder)) for layer, folder in folders.items()}
        layers = in_order(keys)
        device = job_device(config.extraction.device, "extraction.device", float64=True)
        passes = {layer: LayerPass(config, name, layer, drafts[layer], device) for layer in layers}
        with progress(f"evaluate {name}", tokens, "tokens", log) as advance:
            for batch in held_out.batches(layers, tokens):
                seen.add(batch)
                for layer, one in passes.items():
                    one.add(batch.layers[layer])
                advance(sum(batch.counts))
        context = open_context(config, held_out, seen)
        losses = measure_losses(config, held_out, passes, context.notes)
        for layer, one in passes.items():
            finish_layer(context, one, keys[layer], losses.get(layer, {}))


def measure_losses(
    config: Config, held_out: HeldOut, passes: Mapping[Layer, LayerPass], notes: list[str]
) -> dict[Layer, dict[str, CELossFigures]]:
    """Measures the loss that each SAE recovers, if the config asks; if that is impossible, `notes` says why."""
    assert config.evaluation is not None
    tokens, source = config.evaluation.ce_loss_tokens, held_out.model.source
    if tokens is None:
        return {}
    if isinstance(source, ArraysSource):
        notes.append("the loss of activations in files cannot be measured, because there is no model to run")
        return {}
    found: dict[Layer, dict[str, CELossFigures]] = {}
    try:
        device = job_device(config.extraction.device, "extraction.device", float64=True)
        predictor = open_predictor(source, device, source.dtype or config.extraction.dtype)
        for layer, one in passes.items():
            saes = {sae.judged.name: partial(reconstruct, sae.judged) for sae in one.passes}
            log.info("%s layer %s: measuring the loss with %d SAEs", held_out.name, layer, len(saes))
            examples = held_out.examples()
            found[layer] = ce_losses(predictor, examples, layer, saes, tokens, source.batch_size, config.seed)
            if why := why_unreliable(next(iter(found[layer].values()))):
                notes.append(f"layer {layer}: {why}")
    except UserError as error:
        notes.append(f"the loss could not be measured: {error}")
    return found
