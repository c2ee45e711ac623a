"""Compares extraction into stores with the bare forward pass of the same model over the same examples."""

import os
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.timing import Task, command_line, environment, environment_line, median_cpu, show
from saelib.config import Config, load_config
from saelib.config.sites import file_stem
from saelib.config.sources import ArraysSource
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.extract.stage import extract
from saelib.sources import open_source
from saelib.store import Split

PACKAGES = ("torch", "transformers", "zarr", "numpy")


def main(argv: list[str]) -> None:
    parser = command_line("extract", __doc__)
    parser.add_argument("--configfile", type=Path, default=Path("workflow_config.yaml"))
    parser.add_argument(
        "--model", default="all-minilm-l6-v2", help="a model of the suite; all of its layers are extracted"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    # A waiting torch thread would burn CPU time while the other thread writes, and that time would count as work.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    config = load_config(options.configfile)
    with tempfile.TemporaryDirectory() as parent:
        seconds = median_cpu(tasks(config, options.model, Path(parent)), options.repeats)
    bare = seconds["load and bare forward"]
    tokens = config.extraction.tokens + config.extraction.heldout_tokens
    lines = [f"{options.model}: {tokens} tokens, {len(config.models[options.model].layers)} layers"]
    lines += [f"{name:>22} {value:8.2f} CPU-s {value / bare:6.3f}x" for name, value in seconds.items()]
    figures: dict[str, object] = {"model": options.model, "tokens": tokens, "cpu_seconds": seconds}
    figures |= {"ratio": seconds["extract"] / bare, "environment": environment(*PACKAGES)}
    show(figures, [*lines, environment_line(*PACKAGES)], options.json)


def tasks(config: Config, name: str, parent: Path) -> dict[str, Task]:
    """Returns two tasks that load the model and run the same examples; only one of them stores the activations."""
    model = config.models[name]
    config_source = model.source
    if isinstance(config_source, ArraysSource) or model.dataset is None:
        raise UserError(f"{name}: has no forward pass to compare with")
    dataset = open_dataset(config.datasets[model.dataset])
    tokens: dict[Split, int] = {"train": config.extraction.tokens, "heldout": config.extraction.heldout_tokens}

    def bare() -> None:
        source = open_source(config_source, "cpu", config.extraction.dtype)
        for split, wanted in tokens.items():
            examples = dataset.examples(split, config.seed, config.heldout_fraction)
            done = 0
            while done < wanted:
                done += sum(source.forward(list(islice(examples, config_source.batch_size)), []).tokens_per_example)

    def stores() -> None:
        folder = Path(tempfile.mkdtemp(dir=parent))
        keys = dict.fromkeys(model.places, "benchmark")
        extract(name, config, keys, {layer: folder / f"{file_stem(layer)}.zarr" for layer in model.places})

    return {"load and bare forward": bare, "extract": stores}
