"""Stage `features`: writes the pages of the latents of each trained SAE."""

import logging
from typing import TYPE_CHECKING
from urllib.parse import quote

from saelib.config import Config
from saelib.config.evaluation import AnnotationLabels
from saelib.evaluation.judged import kinds_of, trained_saes
from saelib.evaluation.seen import read_seen
from saelib.features.annotations import annotations_of
from saelib.features.index import Names
from saelib.features.pages import fill_pages
from saelib.features.structures import find_structures
from saelib.files.publish import published_folder, remove_drafts
from saelib.files.sealed import write_result

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job

log = logging.getLogger(__name__)

REPORT = "../../../../report.html"
"""The suite's page, as seen from a page of latents."""


def run(config: Config, job: "Job") -> None:
    """Writes the pages of each target; all targets are variants of one layer.

    Raises:
        UserError: If the evaluation, an SAE or a structure is missing or damaged.
    """
    assert config.evaluation is not None
    model, layer = job.targets[0].model, job.targets[0].layer
    seen = read_seen(config.evaluation_path(model, layer))
    saes = dict(zip(kinds_of(config), trained_saes(config, model, layer, "cpu"), strict=True))
    twins = {sae.name: f"../{quote(variant)}/index.html" for variant, sae in saes.items()}
    dataset = config.models[model].dataset or ""
    labels, given = config.evaluation.labels.get(dataset), config.evaluation.structures.get(dataset)
    notes = annotations_of(seen, labels, model) if isinstance(labels, AnnotationLabels) else None
    structures = find_structures(given.path, seen.examples) if given is not None else None
    for target in job.targets:
        sae, folder = saes[target.variant], target.output.parent
        remove_drafts(folder.parent, f"{folder.name}.")
        names = Names(sae.name, f"{model} layer {layer}", REPORT, twins)
        with published_folder(folder) as draft:
            sizes = fill_pages(draft, seen, sae.name, names, sae.directions, notes, structures, config.seed)
            write_result(draft / target.output.name, target.key, sizes)
        log.info("%s: %d latents", folder, sizes["latents"])
