"""The error for data with fewer tokens than the suite asks for, with advice on what to change."""

from collections.abc import Iterator

from saelib.config import Config, ModelConfig
from saelib.config.datasets import Cifar10, Images, Sequences, Text
from saelib.config.sources import TokenModelSource
from saelib.store import Split


def too_few_tokens(config: Config, name: str, split: Split, found: int, examples: int, *, at_most: bool = False) -> str:
    """Returns the message for a split with too few tokens.

    Args:
        config: The suite.
        name: The name of the model.
        split: The split that has too few tokens.
        found: Number of tokens in its data.
        examples: Number of examples that they came from.
        at_most: Whether `found` is only an upper bound.
    """
    key = {"train": "tokens", "heldout": "heldout_tokens"}[split]
    wanted: int = getattr(config.extraction, key)
    model = config.models[name]
    lower = [f"lower extraction.{key} to {found}{' or less' if at_most else ''}"] if found else []
    ways = [*_of_data(config, name, model, examples), *lower]
    if model.dataset:
        ways.append(f"{'raise' if split == 'heldout' else 'lower'} heldout_fraction (now {config.heldout_fraction})")
    return (
        f"{name}: its data give {'at most ' * at_most}{found} {split} tokens, {wanted} are asked for "
        f"(extraction.{key}); {', or '.join(ways)}"
    )


def _of_data(config: Config, name: str, model: ModelConfig, examples: int) -> Iterator[str]:
    if model.dataset is None:
        yield "give longer files"
        return
    key, dataset = f"datasets.{model.dataset}", config.datasets[model.dataset]
    source = model.source
    if isinstance(dataset, Text) and isinstance(source, TokenModelSource) and source.long == "cut":
        length = 4 * source.max_length  # a token of English has about four characters
        if dataset.characters is None or dataset.characters > length:
            yield (
                f"set {key}.characters to about {length} if its {examples} examples are longer than the "
                f"{source.max_length} tokens that are read of each (models.{name}.source.max_length)"
            )
    elif isinstance(dataset, Images):
        yield f"raise {key}.crops (now {dataset.crops}, {examples} in this split)"
    elif isinstance(dataset, Sequences) and dataset.sample:
        yield f"raise {key}.sample (now {dataset.sample})"
    what = "images" if isinstance(dataset, Images | Cifar10) else "data"
    if hasattr(dataset, "files"):
        yield f"name more {what} in {key}.files ({examples} examples now)"
