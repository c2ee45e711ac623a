"""Training straight from a model: one pass for many sweeps, resumable, and in distribution what a store gives."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from transformers import GPT2Model

import saelib.extract.stage
import saelib.stats.stage
import saelib.train.stage
from saelib.activations.rows import ArrayRows, read_float32
from saelib.config import Config, TrainConfig, VariantConfig
from saelib.config.load import check_config
from saelib.config.synthetic import SyntheticConfig
from saelib.errors import UserError
from saelib.extract.batches import Batch, open_batches
from saelib.files.sealed import read_sealed
from saelib.pipeline.plan import make_plan
from saelib.store import open_store
from saelib.synthetic import make_data
from saelib.train import sweep
from saelib.train.batches_from_model import Position, StreamedBatches
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store, train_from_stream

STAGES = {"extract": saelib.extract.stage.run, "stats": saelib.stats.stage.run, "train": saelib.train.stage.run}
TRAIN = {
    "d_sae": 48,
    "k": 4,
    "batch_size": 128,
    "steps": 25,
    "learning_rates": [1e-3, 1e-2],
    "record_every": 25,
    "checkpoint_every": 10,
    "dead_after_examples": 1000,
    "variants": {"plain": {"dead_latents": "auxk"}, "whitened": {"preprocessing": "pca"}},
}


def run(config: Config) -> list[str]:
    """Run what is stale up to training; gives the names of the trainings."""
    jobs = [job for job in make_plan(config).jobs.values() if job.stage in STAGES]
    for job in jobs:
        STAGES[job.stage](config, job)
    return [job.name for job in jobs if job.stage == "train"]


def results(config: Config) -> dict[str, bytes]:
    folder = config.results / "train"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of 3,000 rows, the last 600 of which are held out."""
    folder = tmp_path_factory.mktemp("arrays")
    for layer in (1, 2):
        generator = make_data(SyntheticConfig(gamma=3.0, d_in=16, n_features=32, active=3), seed=layer)
        np.save(folder / f"{layer}.npy", generator.sample(3000, np.random.default_rng(layer)))
    return folder


@pytest.fixture(scope="module")
def undisturbed(arrays: Path) -> Config:
    """A suite that has run."""
    config = suite(arrays, arrays / "undisturbed")
    run(config)
    return config


@pytest.fixture
def config(arrays: Path, undisturbed: Config, tmp_path: Path) -> Config:
    """The same suite, with nothing trained yet."""
    for stage in ("extract", "stats"):
        shutil.copytree(undisturbed.results / stage, tmp_path / "results" / stage)
    return suite(arrays, tmp_path / "results")


def suite(folder: Path, results: Path, stream: Any = None, **train: Any) -> Config:
    model = {
        "domain": "made up",
        "source": {"family": "arrays", "files": {layer: str(folder / f"{layer}.npy") for layer in (1, 2)}},
        "layers": "1-2",
        "train_layers": [1, 2],
        "stream": {"buffer_rows": 512} if stream is None else stream,
    }
    raw = {
        "results": str(results),
        "models": {"toy": model},
        "extraction": {"tokens": 1000, "heldout_tokens": 600, "chunk_rows": 256, "threads": 1},
        "train": TRAIN | train,
    }
    return check_config(raw, "suite")


def language(weights: Path, results: Path, **options: Any) -> Config:
    source = {"family": "transformers", "weights": {"path": str(weights)}, "max_length": 40}
    model = {"domain": "language", "source": source, "dataset": "docs", "layers": "1-3", "train_layers": "2-3"}
    raw = {
        "results": str(results),
        "datasets": {"docs": {"kind": "python_docs", "characters": 300}},
        "models": {"tiny": model | {"stream": True} | options},
        "extraction": {"tokens": 1000, "heldout_tokens": 300, "chunk_rows": 256, "threads": 1},
        "train": TRAIN | {"steps": 10, "learning_rates": [1e-3], "variants": {"plain": {}}},
    }
    return check_config(raw, "suite")


def test_what_streams_by_is_what_the_store_holds_bit_for_bit(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = language(tiny_gpt2, tmp_path)
    run(config)
    stores = {layer: open_store(config.store_path("tiny", layer)) for layer in (2, 3)}
    offsets = {layer: store.train.offset for layer, store in stores.items()}
    options = {"batch_size": 250, "buffer_rows": 500, "seed": 5, "threads": config.extraction.threads}
    stream = StreamedBatches(open_batches("tiny", config, [2, 3]), offsets, name="tiny", **options)
    batches = [batch for batch, _ in zip(stream.batches(0, Position()), range(4), strict=False)]
    for layer, store in stores.items():
        streamed = np.concatenate([read_float32(batch[layer], 0, 250) for batch in batches])
        stored = read_float32(store.train, 0, 1000)
        np.testing.assert_array_equal(np.unique(streamed, axis=0), np.unique(stored, axis=0))
        np.testing.assert_array_equal(np.sort(streamed, axis=0), np.sort(stored, axis=0))


def test_all_layers_and_variants_come_from_one_pass(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = GPT2Model.forward

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        passes.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(GPT2Model, "forward", counted)
    extraction = language(tiny_gpt2, tmp_path / "none", train_layers=None, stream=None)
    run(extraction)
    extracted = len(passes)
    many, one = (language(tiny_gpt2, tmp_path / name, **options) for name, options in CASES.items())
    assert run(many) == ["tiny/pass_1"]
    together = len(passes) - 2 * extracted
    assert run(one) == ["tiny/pass_1", "tiny/pass_2"]
    assert len(passes) - 3 * extracted - together == 2 * together
    assert results(many) == results(one)


CASES: dict[str, dict[str, Any]] = {"many": {}, "one": {"stream": {"sweeps_per_pass": 1}}}


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next trainings stop at a step's `number`-th sweep: step 12's third is 12.3."""
    step_all = sweep.step_all

    def at(number: float) -> None:
        calls = {"left": 4 * (int(number) - 1) + round(10 * (number % 1)) - 1}

        def stop(*arguments: Any) -> None:
            if not calls["left"]:
                raise Interrupted
            calls["left"] -= 1
            step_all(*arguments)

        monkeypatch.setattr(sweep, "step_all", stop)

    return at


@pytest.mark.parametrize("at", [4.2, 10.3, 11.1, 20.4, 25.4])
def test_killed_it_goes_on_to_the_same_bits(
    config: Config, undisturbed: Config, interrupt_at: Callable[[float], None], at: float, monkeypatch: Any
) -> None:
    """Also where some sweeps had saved a checkpoint of their step, and others not yet."""
    interrupt_at(at)
    with pytest.raises(Interrupted):
        run(config)
    monkeypatch.undo()
    positions: list[tuple[int, Position]] = []
    batches = StreamedBatches.batches

    def noted(self: StreamedBatches, start: int, position: Position) -> Iterator[Any]:
        positions.append((start, position))
        return batches(self, start, position)

    monkeypatch.setattr(StreamedBatches, "batches", noted)
    assert run(config) == ["toy/pass_1"]
    assert results(config) == results(undisturbed)
    saved = (int(at) - 1) // 10 * 10
    assert [start for start, _ in positions] == [saved]
    assert (positions[0][1] == Position()) == (saved == 0)


def test_a_damaged_checkpoint_of_one_sweep_sends_that_one_back(
    config: Config, undisturbed: Config, interrupt_at: Callable[[float], None], monkeypatch: Any, caplog: Any
) -> None:
    interrupt_at(23.1)
    with pytest.raises(Interrupted):
        run(config)
    monkeypatch.undo()
    (newest,) = (config.results / "train/toy/layer_2/plain/checkpoints").glob("*/step_00000020")
    (newest / "rate_1.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "saelib"):
        run(config)
    assert "step_00000020: damaged" in caplog.text
    assert results(config) == results(undisturbed)


def test_what_was_published_is_not_trained_again(
    config: Config, undisturbed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.results / "train", config.results / "train")
    for name in ("layer_1/plain", "layer_2/whitened"):
        (config.results / "train/toy" / name / "sweep.json").unlink()
    steps: list[int] = []
    step_all = sweep.step_all
    monkeypatch.setattr(sweep, "step_all", lambda *arguments: (steps.append(1), step_all(*arguments)))
    assert run(config) == ["toy/pass_1"]
    assert len(steps) == 2 * 25
    assert results(config) == results(undisturbed)


def test_where_one_sweep_diverges_the_others_are_published(
    arrays: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = suite(arrays, config.results, variants={"wild": {"learning_rates": [1e9]}, "tame": {}}, record_every=5)
    with pytest.raises(UserError) as caught:
        run(config)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"toy layer {layer}, variant wild" for layer in (1, 2)]
    (left,) = (job for job in make_plan(config).jobs.values() if job.stage == "train")
    assert [(target.layer, target.variant) for target in left.targets] == [(1, "wild"), (2, "wild")]
    # Tried again, as clusters do, it fails at once: nothing that has diverged is waited for.
    monkeypatch.delattr(StreamedBatches, "_fill")
    with pytest.raises(UserError, match="variant wild: training diverged at every learning rate"):
        run(config)


def test_an_activation_that_is_not_finite_is_named_and_nothing_is_published(arrays: Path, tmp_path: Path) -> None:
    for layer in (1, 2):
        values = np.load(arrays / f"{layer}.npy")
        values[2200, 3] = np.nan if layer == 2 else 0  # beyond the store's rows
        np.save(tmp_path / f"{layer}.npy", values)
    config = suite(tmp_path, tmp_path / "results")
    with pytest.raises(UserError, match=r"toy layer 2: 1 of \d+ activations .*not finite.* row 2200"):
        run(config)
    assert not list(config.results.rglob("sweep.json"))


def test_results_say_how_the_batches_came(arrays: Path, undisturbed: Config, config: Config) -> None:
    stored = suite(arrays, config.results, stream=False)
    assert run(stored) == [f"toy/layer_{layer}/{variant}" for layer in (1, 2) for variant in ("plain", "whitened")]
    found = [read_sealed(one.results / "train/toy/layer_1/plain/sweep.json") for one in (undisturbed, stored)]
    assert [one["stream"] for one in found] == [{"buffer_rows": 512}, None]
    assert found[0]["key"] != found[1]["key"]


def test_how_many_share_a_pass_decides_nothing_and_the_buffer_does(arrays: Path, undisturbed: Config) -> None:
    def stale(stream: dict[str, int]) -> list[str]:
        found = make_plan(suite(arrays, undisturbed.results, stream)).jobs.values()
        return [job.name for job in found if job.stage == "train"]

    assert stale({"buffer_rows": 512, "sweeps_per_pass": 3}) == []
    assert stale({"buffer_rows": 640, "sweeps_per_pass": 3}) == ["toy/pass_1", "toy/pass_2"]


DOCUMENTS, LENGTH = 200, 64


def documents(seed: int) -> np.ndarray:
    """Rows as a model gives them: documents around centers of their own, which are two fifths of all variance."""
    rng = np.random.default_rng(seed)
    centers = np.repeat(0.5 * rng.standard_normal((DOCUMENTS, 16)), LENGTH, axis=0)
    rows = make_data(SyntheticConfig(gamma=1.0, d_in=16, n_features=32, active=3), seed=3).sample(
        DOCUMENTS * LENGTH, rng
    )
    return (rows + centers).astype(np.float32)


def finals(folder: Path, buffer_rows: int | None) -> np.ndarray:
    """Held-out error and share of dead latents after a pass over the data, for each of ten seeds."""
    rows, heldout = documents(0), ArrayRows(documents(1)[::4], "toy (heldout)")
    options = {"steps": 100, "learning_rates": [1e-2], "record_every": 100, "variants": {"plain": {}}}
    found = []
    for seed in range(10):
        stored = ArrayRows(np.random.default_rng(seed).permutation(rows), "toy", block_rows=500)
        config = TrainConfig.model_validate(TRAIN | options)
        data = LayerData(stored, heldout, {"mean": rows.mean(0)})
        one = start_sweep(data, config, VariantConfig(), subject=TOY, seed=seed, device="cpu")
        place = Destination(folder / f"{buffer_rows}_{seed}", "k")
        if buffer_rows is None:
            train_from_store(one, stored, place)
        else:
            offsets = {1: np.zeros(16, np.float32)}
            sizes = {"batch_size": config.batch_size, "buffer_rows": buffer_rows, "seed": seed, "threads": 1}
            train_from_stream({one: place}, StreamedBatches(passes_over(rows), offsets, name="toy", **sizes), "toy")
        best = read_sealed(place.folder / "sweep.json")["runs"][0]
        found.append([best["normalized_mse"], best["dead_total"]])
    return np.array(found)


TOY = Subject("toy", 1, "plain")


def passes_over(rows: np.ndarray) -> Any:
    """A model that gives a document in each forward pass."""

    def batches(split: str, start: int = 0) -> Iterator[Batch]:
        for number in range(start, DOCUMENTS):
            acts = rows[number * LENGTH : (number + 1) * LENGTH]
            yield Batch(number, {1: acts}, np.full(LENGTH, number, np.int32), [str(number)], number)

    return batches


def test_a_stream_trains_as_a_store_does(tmp_path: Path) -> None:
    """Equal in distribution over seeds, for a buffer that mixes what the store mixes; close to it for one of half as
    many documents. A buffer of one batch, two documents at a time, is another training: the test can tell.
    """
    stored, whole, half, unmixed = (finals(tmp_path, rows) for rows in (None, DOCUMENTS * LENGTH, 6400, 128))
    for figure in (0, 1):
        difference = whole[:, figure] - stored[:, figure]
        assert scipy_stats.ttest_1samp(difference, 0).pvalue > 0.01
    error = stored[:, 0].mean()
    assert abs(whole[:, 0].mean() - error) < 0.01 * error
    assert abs(half[:, 0].mean() - error) < 0.02 * error
    assert unmixed[:, 0].mean() - error > 0.05 * error
