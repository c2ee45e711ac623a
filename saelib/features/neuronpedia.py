"""Exports of an SAE's latents in the layout that Neuronpedia imports: a folder for each model, and one for each SAE."""

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saelib.errors import UserError
from saelib.features.scripts import rounded

if TYPE_CHECKING:
    from saelib.features.directions import Neighbors

CREATOR = "clkht01d40000jv08hvalcvly"
"""Number of Neuronpedia's default user, to whom its own tools assign what they import."""
ABOUT = "saelib"
"""Name of the release and of the creator."""
HOOKS = {
    "residual": ("res", "hook_resid_post"),
    "attention_out": ("att", "hook_attn_out"),
    "mlp_out": ("mlp", "hook_mlp_out"),
}
"""Site -> its short name in Neuronpedia's sets, and TransformerLens's name."""


class Source(NamedTuple):
    """The names of an SAE on Neuronpedia."""

    model: str
    block: int
    """Number of the model's block, from 0."""
    hook: str
    """TransformerLens's name of the place in the model."""
    sae_set: str

    @property
    def id(self) -> str:
        """Names the SAE: '4-saelib-res-baseline-seed0'."""
        return f"{self.block}-{self.sae_set}"


def source_of(evaluation: Path, sae: str) -> Source:
    """Names an SAE of an evaluation in `MODEL/layer_N`, whose layer N is the output of block N - 1.

    Raises:
        UserError: If the folder has another name.
    """
    model, layer = evaluation.resolve().parts[-2:]
    found = re.fullmatch(rf"layer_(\d+)(?:_({'|'.join(HOOKS)}))?", layer)
    if found is None:
        raise UserError(f"{evaluation}: should be the folder of one layer, such as results/evaluation/gpt2/layer_5")
    number = int(found[1])
    short, hook = HOOKS[found[2] or "residual"]
    place = f"blocks.{number - 1}.{hook}" if number else "blocks.0.hook_resid_pre"
    return Source(_name(model), max(number - 1, 0), place, f"saelib-{short}-{_name(sae)}")


def write_about(folder: Path, source: Source, examples: int, tokens: int) -> None:
    """Writes the files that describe the release, the model and the SAE.

    Args:
        folder: The folder of the SAE.
        source: Its names.
        examples: Number of texts.
        tokens: Tokens of a text that are shown, at most.
    """
    created = {"creatorId": CREATOR, "createdAt": _now(), "visibility": "PUBLIC"}
    title = f"SAEs that were trained by {ABOUT}"
    rows = {
        "release": {"name": ABOUT, "description": title, "creatorName": ABOUT, "urls": []},
        "model": {
            "id": source.model,
            "displayName": source.model,
            "displayNameShort": source.model,
            "instruct": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
        },
        "sourceset": {
            "modelId": source.model,
            "name": source.sae_set,
            "description": source.hook,
            "creatorName": ABOUT,
            "releaseName": ABOUT,
            "urls": [],
        },
        "source": {
            "id": source.id,
            "modelId": source.model,
            "setName": source.sae_set,
            "num_prompts": examples,
            "num_tokens_in_prompt": tokens,
        },
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(created | row) + "\n", encoding="ascii")


def write_latents(
    folder: Path, source: Source, near: "Neighbors | None", found: Sequence[Mapping[str, Any]], number: int
) -> None:
    """Writes the latents and activating examples of some dashboards: `features/` and `activations/batch-N.jsonl.gz`.

    Args:
        folder: The folder of the SAE.
        source: Its names.
        near: The closest decoder directions of each latent, if they are known.
        found: Dashboards of `saelib.features.dashboards`.
        number: Number of the two files.
    """
    owner = {"modelId": source.model, "layer": source.id, "creatorId": CREATOR, "createdAt": _now()}
    latents, activations = [], []
    for dashboard in found:
        own = owner | {"index": str(dashboard["feature_index"])}
        shown = [
            _activation(one, f"{source.model} {source.id} {own['index']} {n}")
            for n, one in enumerate(dashboard["activations"])
        ]
        largest = max((one["maxValue"] for one in shown), default=0.0)
        latents.append(own | _latent(dashboard, source, near, largest))
        activations += [own | one for one in shown]
    _write(folder / "features" / f"batch-{number}.jsonl.gz", latents)
    _write(folder / "activations" / f"batch-{number}.jsonl.gz", activations)


SAME = (
    *(f"neuron_alignment_{value}" for value in ("indices", "values", "l1")),
    *(f"correlated_{other}_{value}" for other in ("neurons", "features") for value in ("indices", "pearson", "l1")),
    *("neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "decoder_weights_dist"),
    *(f"{kind}_hist_data_bar_{value}" for kind in ("freq", "logits") for value in ("heights", "values")),
)
"""Fields of a dashboard that Neuronpedia calls by the same names."""


def _latent(dashboard: Mapping[str, Any], source: Source, near: "Neighbors | None", largest: float) -> dict[str, Any]:
    latent = dashboard["feature_index"]
    return {
        "sourceSetName": source.sae_set,
        "maxActApprox": largest,
        "hookName": source.hook,
        "hasVector": False,
        "topkCosSimIndices": near.latents[latent].tolist() if near else [],
        "topkCosSimValues": rounded(near.cosines[latent].tolist()) if near else [],
        **{name: dashboard[name] for name in SAME},
    }


def _activation(one: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = one["values"]
    largest = max(values)
    return {
        "id": f"c{hashlib.sha256(name.encode()).hexdigest()[:24]}",
        "tokens": one["tokens"],
        "values": values,
        "maxValue": largest,
        "maxValueTokenIndex": values.index(largest),
        "minValue": min(values),
        "binMin": one["bin_min"],
        "binMax": one["bin_max"],
        "binContains": one["bin_contains"],
        "qualifyingTokenIndex": one["qualifying_token_index"],
    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", compresslevel=5, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n")


def _name(text: str) -> str:
    """Turns a name into one that Neuronpedia allows: small letters, digits, - and _."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "sae"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
