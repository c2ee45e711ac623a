"""SAEs of an experiment that trains, and how they share a stream of data."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.config.lab import Cell, Trainings
from saelib.config.training import TrainConfig, VariantConfig
from saelib.evaluation.space import Sample, Space
from saelib.lab.data import DataConfig, StoredSignal, cell_data
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.choose import make_trainer
from saelib.sae.model import SAE, WITH_K
from saelib.sae.population import PopulationTrainer
from saelib.sae.trainer import Trainer, TrainerSettings
from saelib.stats import compute_stats
from saelib.synthetic import SyntheticData
from saelib.train.first_sae import first_sae

if TYPE_CHECKING:
    from saelib.lab.checkpoint import Checkpoint
    from saelib.lab.stage import Outbox

CALIBRATION_TOKENS = 8_192
"""Tokens that preprocessings are fitted to, and the scale of errors is measured on."""
OF_THE_OFFSET = ("gamma", "offset_norm", "signal_scale", "outlier_dimensions", "rotated")
"""Keys of the data that change the scale and the offset alone, so that SAEs that differ in them share a stream."""


@dataclass(frozen=True, eq=False)
class Trainee:
    """One SAE to be trained: a cell of the grid with one seed."""

    experiment: Trainings
    cell: Cell
    seed: int

    @cached_property
    def stream(self) -> str:
        """Names the stream of data; trainees of one stream also have SAEs of the same size."""
        everything = self.cell.data.model_dump(mode="json")
        data = {name: value for name, value in everything.items() if name not in OF_THE_OFFSET}
        if data.get("contaminated"):  # whose direction depends on `rotated`
            data["rotated"] = everything["rotated"]
        has_k = self.variant.trained_architecture in WITH_K  # a population has one k
        return json.dumps([self.seed, data, self.cell.sae.model_dump(), self.cell.settings["batch_size"], has_k])

    @cached_property
    def data(self) -> SyntheticData:
        """The data of this seed."""
        return cell_data(self.cell.data, self.seed)

    @cached_property
    def variant(self) -> VariantConfig:
        """The way to train."""
        return self.experiment.variant_of(self.cell.settings)

    @cached_property
    def config(self) -> TrainConfig:
        """Sizes and steps."""
        sae, settings = self.cell.sae, self.cell.settings
        return TrainConfig(
            d_sae=sae.d_sae,
            k=sae.k,
            batch_size=settings["batch_size"],
            steps=self.experiment.steps,
            dead_after_examples=self.experiment.dead_after_examples,
        )

    @property
    def calibration(self) -> ArrayRows:
        """Tokens that the preprocessing is fitted to."""
        return self._fitted_to[0]

    @property
    def statistics(self) -> Mapping[str, NDArray[Any]]:
        """Statistics of these tokens, as `make_preprocessing` takes them."""
        return self._fitted_to[1]

    @property
    def _fitted_to(self) -> tuple[ArrayRows, Mapping[str, NDArray[Any]]]:
        return _calibration(self.cell.data, self.seed)  # type: ignore[reportArgumentType] # frozen, so it has a hash

    @cached_property
    def preprocess(self) -> Preprocessing:
        """The variant's preprocessing, fitted to these tokens."""
        tokens = self.calibration.shape[0]
        return make_preprocessing(self.variant.preprocessing, self.statistics, tokens=tokens, name=self.cell.name)

    @cached_property
    def space(self) -> Space:
        """The space that the SAE reads, and the scale of its errors."""
        return Space(self.preprocess, self.calibration, "cpu")

    def first_sae(self) -> SAE:
        """Makes the SAE before training; those of one seed start from the same random directions."""
        read = (self.calibration, self.space, self.preprocess, self.statistics)
        return first_sae(*read, self.config, self.variant, self.seed)

    @property
    def settings(self) -> TrainerSettings:
        """Settings of its trainer."""
        rate = self.cell.settings["learning_rate"]
        return TrainerSettings(self.config, self.variant, rate, self.space.trained.variance, self.seed)

    def samples(self, tokens: int) -> list[Sample]:
        """Draws held-out tokens."""
        rows = ArrayRows(self.data.sample(tokens, np.random.default_rng((self.seed, 4))), "the held-out tokens")
        return list(self.space.samples(rows, tokens, tokens))


@lru_cache(maxsize=8)
def _calibration(config: DataConfig, seed: int) -> tuple[ArrayRows, Mapping[str, NDArray[Any]]]:
    """Draws the tokens that preprocessings are fitted to, all training rows of a real layer, and their statistics."""
    data = cell_data(config, seed)
    if isinstance(data.source, StoredSignal):
        tokens = data.source.rows
    else:
        tokens = data.sample(CALIBRATION_TOKENS, np.random.default_rng((seed, 1)))
    rows = ArrayRows(tokens, "the calibration tokens")
    return rows, compute_stats(rows).arrays


class Class:
    """Trainees of one stream, in training: those that read it as it is as a population, the others one by one."""

    def __init__(self, trainees: Sequence[Trainee]) -> None:
        """Makes the trainers of these trainees, all of one stream."""
        self.trainees = [*(one for one in trainees if one.space.same), *(one for one in trainees if not one.space.same)]
        together = [one for one in self.trainees if one.space.same]
        self.population: PopulationTrainer | None = None
        """The SAEs that read the stream as it is."""
        if together:
            scales, offsets = [one.data.scale for one in together], [one.data.offset for one in together]
            settings = [one.settings for one in together]
            saes = [one.first_sae() for one in together]
            self.population = PopulationTrainer(saes, settings, scales, offsets, measure=False)
        self._alone: list[tuple[Trainee, Trainer]] = [
            (one, make_trainer(one.first_sae(), one.settings)) for one in self.trainees[len(together) :]
        ]
        self._rng = np.random.default_rng((trainees[0].seed, 3))

    def step(self) -> None:
        """Draws a batch of the stream and trains every SAE on it."""
        first = self.trainees[0]
        signal = first.data.signal(first.config.batch_size, self._rng)
        if self.population is not None:
            self.population.step(signal)
        for trainee, trainer in self._alone:
            x = trainee.space.preprocess.apply(_activations(trainee.data, signal))
            trainer.step(torch.from_numpy(x))

    @property
    def stream_state(self) -> dict[str, Any]:
        """Everything that the next batch of the stream depends on, as JSON."""
        return dict(self._rng.bit_generator.state)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns everything that the next step of each SAE depends on, with the SAE's number before each name."""
        states = enumerate(trainer.state_dict() for trainer in self._trainers())
        return {f"{i}.{name}": value for i, state in states for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor], stream_state: Mapping[str, Any]) -> None:
        """Continues from `state_dict` and `stream_state`, bit for bit."""
        for i, trainer in enumerate(self._trainers()):
            own = f"{i}."
            trainer.load_state_dict({name[len(own) :]: value for name, value in state.items() if name.startswith(own)})
        self._rng.bit_generator.state = dict(stream_state)

    def saes(self) -> Iterator[tuple[Trainee, SAE]]:
        """Yields every trainee with its SAE as it is now."""
        for trainee, trainer in zip(self.trainees, self._trainers(), strict=True):
            yield trainee, trainer.sae

    def _trainers(self) -> list[Trainer]:
        members = [] if self.population is None else self.population.members
        return [*members, *(trainer for _, trainer in self._alone)]


def _activations(data: SyntheticData, signal: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(data.scale) * signal + data.offset.astype(np.float32)


def unfinished(
    experiment: Trainings, cells: Sequence[Cell], seeds: Sequence[int], outbox: "Outbox"
) -> Iterator[tuple[Class, "Checkpoint"]]:
    """Yields the SAEs that are to be trained, seed after seed and stream after stream, each with its checkpoint.

    The checkpoint is removed when the next stream is asked for: its rows have been kept by then.
    """
    for seed in seeds:
        for group in classes([Trainee(experiment, cell, seed) for cell in cells if outbox.kept(cell, seed) is None]):
            checkpoint = outbox.checkpoint([trainee.cell for trainee in group.trainees], seed)
            yield group, checkpoint
            checkpoint.remove()


def classes(trainees: Sequence[Trainee]) -> list[Class]:
    """Groups trainees by their streams."""
    groups: dict[str, list[Trainee]] = {}
    for one in trainees:
        groups.setdefault(one.stream, []).append(one)
    return [Class(group) for group in groups.values()]
