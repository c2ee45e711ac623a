"""Runs each stage at given sizes, through the same functions as the pipeline's jobs."""

import gc
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.scaling.sizes import BATCH, K, Point, Size, Sweep
from benchmarks.stats import TiledRows, activations
from benchmarks.timing import cpu_seconds, peak_memory
from saelib.activations.rows import ArrayRows, Rows
from saelib.config import Config, TrainConfig, VariantConfig
from saelib.config.load import check_config
from saelib.extract.stage import extract
from saelib.init_death.measure import measure as measure_death
from saelib.init_death.result import save_result
from saelib.preprocessing.fit import make_preprocessing
from saelib.stats import compute_stats, save_stats
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store

Run = Callable[[Path], object]
"""A run of a stage, which writes its results to the given folder."""
PREPROCESSINGS = Config.model_fields["init_death"].default.preprocessings
WORDS = ("the", "of", "a", "is", "and", "to", "in", "that", "it", "or", "be", "as", "for", "are")
HELDOUT = 256


def measure_sweep(sweep: Sweep, repeats: int) -> list[Point]:
    """Measures every size. The smallest runs once before, so no compilation is measured."""
    prepare = {"extract": of_extract, "stats": of_stats, "init_death": of_init_death, "train": of_train}
    prepare |= {"store": of_store, "eigenvectors": of_eigenvectors, "whitening": of_whitening}
    with tempfile.TemporaryDirectory() as parent, threadpool_limits(1, "blas"), one_torch_thread():
        _point(prepare[sweep.stage](sweep.sizes[0], Path(parent)), sweep.sizes[0], 1)
        gc.freeze()  # collecting garbage among all of torch's objects before each run takes longer than many runs
        return [_point(prepare[sweep.stage](size, Path(parent)), size, repeats) for size in sweep.sizes]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limits torch to one thread: a second, waiting one would burn CPU time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _point(run: Run, size: Size, repeats: int) -> Point:
    seconds, memory, disk = [], [], 0

    def timed(folder: Path) -> None:
        start = cpu_seconds()
        run(folder)
        seconds.append(cpu_seconds() - start)

    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            memory.append(peak_memory(lambda folder=Path(name): timed(folder), interval=0.02))
            disk = sum(file.stat().st_size for file in Path(name).rglob("*") if file.is_file())
    return Point(size, tuple(seconds), tuple(memory), disk)


def of_extract(size: Size, parent: Path) -> Run:
    """Prepares an extraction of every layer of a GPT-2 with random weights, over sentences of common words."""
    config = suite(size, Path(tempfile.mkdtemp(dir=parent)))
    layers = config.models["m"].layers

    def run(folder: Path) -> None:
        extract("m", config, dict.fromkeys(layers, "k"), {layer: folder / f"layer_{layer}.zarr" for layer in layers})

    return run


def suite(size: Size, folder: Path) -> Config:
    """Builds a suite of one such model, and writes its checkpoint and data to `folder`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(("<unk>", "<pad>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    heads = size.d_in // 64
    shape = GPT2Config(vocab_size=len(words), n_positions=128, n_embd=size.d_in, n_layer=size.layers, n_head=heads)
    GPT2Model(shape).save_pretrained(folder)
    draw = np.random.default_rng(0)
    texts = (" ".join(draw.choice(WORDS, 128)) for _ in range(4 * (size.tokens + HELDOUT) // 128))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    source = {"family": "transformers", "weights": {"path": str(folder)}, "max_length": 128, "batch_size": 8}
    # Windows are smaller than the smallest size, so memory behaves as at large sizes.
    small = {"chunk_rows": 256, "window_rows": 1024, "threads": 1}
    raw: dict[str, Any] = {
        "datasets": {"words": {"kind": "text", "files": [{"path": str(folder / "texts.jsonl")}]}},
        "models": {"m": {"domain": "none", "source": source, "dataset": "words", "layers": f"1-{size.layers}"}},
        "extraction": {**small, "tokens": size.tokens, "heldout_tokens": HELDOUT},
    }
    return check_config(raw, "benchmark")


def of_store(size: Size, parent: Path) -> Run:
    """Prepares the part of extraction after the forward pass, for one layer of generated activations."""
    file = Path(tempfile.mkdtemp(dir=parent)) / "acts.npy"
    np.save(file, activations(size.tokens + HELDOUT, size.d_in, seed=0).astype(np.float32))
    model = {"domain": "none", "source": {"family": "arrays", "files": {1: str(file)}}, "layers": 1}
    settings = {"tokens": size.tokens, "heldout_tokens": HELDOUT}
    config = check_config({"models": {"m": model}, "extraction": settings}, "benchmark")
    return lambda folder: extract("m", config, {1: "k"}, {1: folder / "layer_1.zarr"})


def of_stats(size: Size, _parent: Path) -> Run:
    """Prepares statistics of one layer, whitening included."""
    rows = tiled(size)
    return lambda folder: save_stats(compute_stats(rows), folder / "layer_1.json", "k")


def of_eigenvectors(size: Size, _parent: Path) -> Run:
    """Prepares the decompositions, the largest part of statistics that does not depend on tokens."""
    x = activations(size.d_in + 1, size.d_in, seed=0).astype(np.float64)
    covariance = x.T @ x
    return lambda _folder: np.linalg.eigh(covariance)


def of_init_death(size: Size, _parent: Path) -> Run:
    """Prepares init death with one seed and a suite's default preprocessings."""
    rows = tiled(size)
    arrays = fitted(size.d_in)
    preprocessings = {name: make_preprocessing(name, arrays) for name in PREPROCESSINGS}

    def run(folder: Path) -> None:
        result = measure_death(rows, preprocessings, size.d_sae, K, seeds=[0])
        save_result(result, folder / "layer_1.json", "k")

    return run


def of_train(size: Size, _parent: Path) -> Run:
    """Prepares training of one variant, `baseline`, at one learning rate."""
    options = {"d_sae": size.d_sae, "k": K, "batch_size": BATCH, "steps": size.tokens // BATCH}
    config = TrainConfig.model_validate(options | {"learning_rates": [1e-3], "record_every": options["steps"]})
    rows = ArrayRows(activations(2 * BATCH, size.d_in, seed=0), "benchmark")
    heldout, zeros = ArrayRows(activations(HELDOUT, size.d_in, seed=1), "benchmark"), {"mean": np.zeros(size.d_in)}
    subject = Subject("benchmark", 1, "baseline")

    def run(folder: Path) -> None:
        data = LayerData(rows, heldout, zeros)
        sweep = start_sweep(data, config, VariantConfig(), subject=subject, seed=0, device="cpu")
        train_from_store(sweep, rows, Destination(folder, "k"))

    return run


def of_whitening(size: Size, _parent: Path) -> Run:
    """Prepares the whitening of every row that the variant `pca` reads, as in one epoch."""
    block = activations(size.tokens, size.d_in, seed=0)
    preprocess, offset = make_preprocessing("pca", fitted(size.d_in)), np.zeros(size.d_in, np.float32)
    return lambda _folder: preprocess.apply(block, offset)


def fitted(d_in: int) -> Mapping[str, NDArray[np.floating]]:
    """The arrays that preprocessings are built from, by name. Their values do not change the costs."""
    names = ("mean", "center_median", "ln_center_median")
    spread = {"std": np.ones(d_in), "eigenvalues": np.ones(d_in), "eigenvectors": np.eye(d_in, dtype=np.float32)}
    return {name: np.zeros(d_in) for name in names} | spread


def tiled(size: Size) -> Rows:
    """Any number of rows in the memory of one block."""
    return TiledRows(size.tokens, size.d_in)


class CountedRows(TiledRows):
    """Rows that count how many are read."""

    read = 0

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """As `TiledRows`."""
        self.read += stop - start
        return super().block(start, stop)


def stats_passes() -> float:
    """Returns how often statistics read each row."""
    rows = CountedRows(16_384, 128)
    compute_stats(rows)
    return rows.read / rows.shape[0]
