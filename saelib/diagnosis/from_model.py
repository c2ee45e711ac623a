"""Activations of a model's layers for a diagnosis: a folder, a name on the hub or in a suite, and some data."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.config import Config
from saelib.config.load import check_config, read_yaml
from saelib.config.sites import Layer
from saelib.errors import UserError

Advance = Callable[[int], None]

MOST_UNKNOWN = 0.1
"""Share of letters that are no residue, above which a sequence is left out."""
LEAST_HELD_OUT = 0.01
"""Share of the examples that a data set keeps apart, because a split needs some."""


@dataclass(frozen=True)
class ModelQuestion:
    """A question for the activations of a model's layers."""

    model: str
    """A folder with a checkpoint, `organization/name` on the hub, or a model of the suite `configfile`."""
    layers: str
    """`12`, `1-11`, `1-`, `all`: layer i is the residual stream after block i, 0 the embeddings."""
    text: Path | None = None
    """Documents: .txt, .jsonl, .parquet, or a folder of them."""
    fasta: Path | None = None
    """Protein or nucleotide sequences."""
    images: Path | None = None
    """A folder of images."""
    family: str | None = None
    """Family that loads the checkpoint; told by the data and the files if None."""
    configfile: Path = Path("workflow_config.yaml")
    max_length: int | None = None
    """Tokens that the model reads at once; the family's own default if None."""
    sites: str = "residual"
    """Places within each layer, by commas: `residual`, `attention_out`, `mlp_out` (docs/models.md)."""
    device: str = "auto"
    """Device that the model runs on, as torch names it. `auto`: a GPU if there is one, Apple's included."""

    def __post_init__(self) -> None:
        """Raises `UserError` where more than one kind of data is named."""
        if sum(data is not None for data in (self.text, self.fasta, self.images)) > 1:
            raise UserError("--text, --fasta and --images: name one of them")


class TokenRows(ArrayRows):
    """A layer's activations, and where each token stands in its example."""

    def __init__(self, values: NDArray[np.float32], name: str, positions: NDArray[np.int64]) -> None:
        """`values`: [tokens, d_in]; `positions`: [tokens], from 0 in each example, among the tokens that are kept."""
        super().__init__(values, name)
        self.positions = positions


def model_rows(question: ModelQuestion, tokens: int, advance: Advance = lambda _: None) -> dict[Layer, TokenRows]:
    """Runs the model once over the data, until every layer has so many tokens, into temporary files.

    Args:
        question: Which activations.
        tokens: The most tokens of each layer.
        advance: Called with the number of tokens that have come since the last call.

    Raises:
        UserError: For files that are missing or not such a model, and layers that the model does not have.
    """
    from saelib.extract.batches import open_batches
    from saelib.sources.precision import pick_device

    name, config = _suite_of_one(question)
    layers = config.models[name].places
    files = {layer: tempfile.TemporaryFile() for layer in layers}  # noqa: SIM115 (memory maps keep them open)
    widths: dict[Layer, int] = {}
    examples: list[NDArray[np.int32]] = []
    found = 0
    device = pick_device() if question.device == "auto" else question.device
    for batch in open_batches(name, config, layers, device)("train"):
        kept = batch.example[: tokens - found]
        for layer in layers:
            values = batch.layers[layer]
            values[: len(kept)].tofile(files[layer])
            widths[layer] = values.shape[1]
        examples.append(kept)
        found += len(kept)
        advance(len(kept))
        if found >= tokens:
            break
    if not found:
        raise UserError(f"{question.model}: the data gave no tokens")
    positions = _positions(np.concatenate(examples))
    rows: dict[Layer, TokenRows] = {}
    for layer in layers:
        files[layer].flush()
        values = np.memmap(files[layer], np.float32, "r", shape=(found, widths[layer]))
        rows[layer] = TokenRows(values, f"{name} layer {layer}", positions)
    return rows


def _positions(example: NDArray[np.int32]) -> NDArray[np.int64]:
    """Counts from 0 within each run of equal example numbers."""
    index = np.arange(len(example))
    first = np.r_[True, example[1:] != example[:-1]]
    return index - np.maximum.accumulate(np.where(first, index, 0))


def _suite_of_one(question: ModelQuestion) -> tuple[str, Config]:
    """A suite with this model and this data alone, checked as any suite is."""
    entry, datasets = _known_model(question)
    given = _dataset(question)
    if entry is None:
        if given is None:
            raise UserError(
                f"{question.model}: name the data too, by --text FILE, --fasta FILE or --images FOLDER "
                f"({question.configfile} has no model of this name, which would bring its own)"
            )
        entry = {"domain": "given", "source": _source(question)}
    elif question.family is not None:
        raise UserError(f"--family: {question.configfile} says how {question.model} is loaded; leave the option out")
    elif question.max_length is not None:
        entry["source"] = entry["source"] | {"max_length": question.max_length}
    layers = int(question.layers) if question.layers.isdigit() else question.layers
    entry = {key: value for key, value in entry.items() if key in ("domain", "source", "dataset", "blocks", "width")}
    if given is not None:
        entry["dataset"], datasets = "given", {"given": given}
    if "dataset" in entry:
        datasets = {entry["dataset"]: datasets[entry["dataset"]]}
    name = Path(question.model).name if Path(question.model).exists() else question.model.rpartition("/")[2]
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name) or "model"
    raw = {
        "heldout_fraction": LEAST_HELD_OUT,
        "datasets": datasets,
        "models": {name: entry | {"layers": layers, "sites": [site.strip() for site in question.sites.split(",")]}},
    }
    return name, check_config(raw, f"--model {question.model}")


def _known_model(question: ModelQuestion) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The model's entry in the suite and the suite's data sets, where it has a model of this name."""
    if Path(question.model).exists() or not question.configfile.is_file():
        return None, {}
    raw = read_yaml(question.configfile)
    models = raw.get("models") if isinstance(raw, Mapping) else None
    if not isinstance(models, Mapping) or question.model not in models:
        return None, {}
    return dict(models[question.model]), dict(raw.get("datasets") or {})


def _dataset(question: ModelQuestion) -> dict[str, Any] | None:
    for path in (question.text, question.fasta, question.images):
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file or folder")
    if question.text is not None:
        return {"kind": "text", "files": [{"path": str(question.text)}]}
    if question.images is not None:
        return {"kind": "images", "files": [{"path": str(question.images)}]}
    if question.fasta is not None:
        # The letters of nucleotides are among those of residues, so this alphabet reads both.
        files = [{"path": str(question.fasta)}]
        return {"kind": "sequences", "files": files, "alphabet": "protein", "max_unknown": MOST_UNKNOWN}
    return None


def _source(question: ModelQuestion) -> dict[str, Any]:
    """Describes how the checkpoint is loaded, as a suite's `source` does."""
    path = Path(question.model).expanduser()
    local = path.exists()
    weights = {"path": str(path)} if local else {"hf": question.model}
    family = question.family or _family(question, path)
    source: dict[str, Any] = {"family": family, "weights": weights}
    if question.max_length is not None:
        source["max_length"] = question.max_length
    packed = sorted(path.glob("*.gguf")) if path.is_dir() and family == "transformers" else []
    if packed and not (path / "config.json").is_file():
        if len(packed) > 1:
            raise UserError(f"{path}: holds {len(packed)} GGUF files; give each a folder of its own")
        source["gguf_file"] = packed[0].name
    return source


def _family(question: ModelQuestion, path: Path) -> str:
    if question.images is not None:
        return "transformers_vision"
    esm2 = path.suffix == ".pt" or (path.is_dir() and any(path.glob("*.pt")) and not (path / "config.json").is_file())
    return "esm2" if question.fasta is not None and esm2 else "transformers"
