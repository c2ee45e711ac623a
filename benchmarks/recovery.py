"""The law of `saelib recovery`: its fit to trainings of configs/lab-recovery.yaml, and its errors on those left out."""

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from benchmarks.timing import command_line, show
from saelib.theory.recovery import HARMLESS_RATE, LAW, REFERENCE, SHARES, TESTED, Law, relative_rate

CONFIG = Path(__file__).parents[1] / "configs" / "lab-recovery.yaml"
TABLE = Path(__file__).with_suffix(".csv")
"""The trainings that the constants of `saelib.theory.recovery` were fitted to."""
LATER = TABLE.with_name("recovery_later.csv")
"""Trainings that ran when the law had been fixed. They test it, and are no part of the fit."""
OTHER_SEED = TABLE.with_name("recovery_other_seed.csv")
"""Some of the same trainings from another seed. How far two of a pair differ is an error that no law can avoid."""
PREDICTED_BY = {event: event for event in SHARES} | {"revived": "bias_99"}
"""Event -> the event whose predicted steps are also its own. Latents that come to life do so with the bias."""
GUESS = Law(dict.fromkeys(SHARES, 10_000), 0, -1, 0, 0, 10_000)
"""Where the fit starts: the undisturbed steps of a bias grow as ||mu|| / learning rate."""
ROWS = {
    "all": "a third left out",
    "later": "trainings run later",
    "powers": "a third, by powers alone",
    "later_powers": "run later, by powers alone",
}
FOLDS, SPLITS = 3, 10
"""Each split deals the trainings into three folds; each fold is predicted by the law fitted to the other two."""


@dataclass(frozen=True)
class Training:
    """One training: its settings, and the steps of the events, None for those that did not happen."""

    entry: str
    variant: str
    gamma: float
    mean_norm: float
    least: float
    learning_rate: float
    batch_size: int
    memory: float
    outlier_dimensions: int
    d_in: int
    d_sae: int
    k: int
    bias_50: float | None
    bias_90: float | None
    bias_99: float | None
    revived: float | None

    @property
    def signal_norm(self) -> float:
        """||sigma||, the scale of the activations without their mean."""
        return self.mean_norm / self.gamma

    @property
    def settings(self) -> dict[str, float]:
        """All settings by name: those that the law knows, and those that have a tested range."""
        return {name: getattr(self, name) for name in (*REFERENCE, *TESTED)}

    def value(self, name: str) -> float:
        """Returns a setting to three digits, so that equal ones compare equal."""
        return float(f"{self.settings[name]:.3g}")

    @property
    def key(self) -> tuple[str | float, ...]:
        """The entry and the settings, which are the same for all seeds."""
        return (self.entry, *(self.value(name) for name in TESTED))

    @property
    def covered(self) -> bool:
        """True for trainings that the law is about: SAEs trained whole by Adam, one outlier dimension, gamma >= 5."""
        whole = self.variant not in ("frozen_features", "sign_sgd")
        return whole and self.outlier_dimensions == 1 and self.value("gamma") >= TESTED["gamma"][0]


@dataclass(frozen=True)
class Powers:
    """The law's rival: for each event a product of powers of all settings, without a form from the dynamics."""

    coefficients: dict[str, np.ndarray]

    @classmethod
    def fit(cls, trainings: Sequence[Training]) -> "Powers":
        """Fits the logarithms of the steps to each event by linear least squares."""
        reached = {event: [one for one in trainings if getattr(one, event) is not None] for event in SHARES}
        return cls(
            {
                event: np.linalg.lstsq(
                    np.stack([_logarithms(one.settings) for one in ones]),
                    np.log([getattr(one, event) for one in ones]),
                    rcond=None,
                )[0]
                for event, ones in reached.items()
            }
        )

    def steps(self, event: str, settings: Mapping[str, float]) -> float:
        """Returns the predicted steps of an event."""
        return float(np.exp(_logarithms(settings) @ self.coefficients[event]))


def _logarithms(settings: Mapping[str, float]) -> np.ndarray:
    """Returns a 1, and the logarithms of all settings over the smallest tested value."""
    return np.array([1.0, *(np.log(settings[name] / low) for name, (low, _) in TESTED.items())])


@dataclass(frozen=True)
class Errors:
    """Relative errors |predicted / measured - 1| of a law on trainings that its fit has not seen."""

    predictions: int
    median: float
    ninety: float
    """Nine in ten are smaller."""
    worst: float
    within_20: float
    """Fraction that is at most 20 %."""

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Errors":
        """Sums up ratios of predicted and measured steps."""
        errors = np.abs(np.array(ratios) - 1)
        median, ninety, worst = (float(np.quantile(errors, share)) for share in (0.5, 0.9, 1))
        return cls(len(ratios), median, ninety, worst, float((errors <= 0.2).mean()))


def main(argv: list[str]) -> None:
    parser = command_line("recovery", __doc__)
    parser.add_argument("--results", type=Path, metavar="DIR", help="of the configuration, instead of the table")
    parser.add_argument("--config", type=Path, metavar="FILE", default=CONFIG, help="the configuration")
    parser.add_argument("--write", type=Path, metavar="FILE", help="only write the trainings as a table (.csv)")
    options = parser.parse_args(argv)
    trainings = list(read_results(options.config, options.results)) if options.results else read_table(TABLE)
    if options.write:
        write_table(options.write, trainings)
        return
    covered = [one for one in trainings if one.covered]
    law, revived, chance = fit(covered), revival(covered), noise(covered, read_table(OTHER_SEED))
    errors = {"all": held_out(covered), "later": later(LAW)}
    errors |= {"powers": held_out(covered, fitted=Powers.fit), "later_powers": later(Powers.fit(covered))}
    errors |= extrapolated(covered)
    report = {
        "trainings": len(covered),
        "law": asdict(law),
        "errors": {what: {event: asdict(one) for event, one in found.items()} for what, found in errors.items()},
        "noise": chance,
        "revival": revived,
        "by_severity": [asdict(one) for one in by_severity(covered)],
    }
    lines = [*in_words(len(covered), law, errors, chance, revived), *severities_in_words(by_severity(covered))]
    show(report, lines, options.json)


def read_results(file: Path, results: Path) -> Iterator[Training]:
    """Reads the cells that exist of a configuration such as configs/lab-recovery.yaml."""
    from saelib.config.lab import RecoveryExperiment
    from saelib.config.load import load_config
    from saelib.config.synthetic import SyntheticConfig
    from saelib.lab.result import load_cell

    config = load_config(file).model_copy(update={"results": results})
    for entry, experiment in config.experiments.items():
        assert isinstance(experiment, RecoveryExperiment)
        for cell in experiment.cells():
            assert isinstance(cell.data, SyntheticConfig), "the experiments of this kind take no other data"
            if not (path := config.lab_path(entry, cell)).exists():
                continue
            found: dict[str, Any] = {name: values[0][0] for name, values in load_cell(path).measured.items()}
            optimizer = experiment.variants[cell.settings["variant"]].optimizer
            yield Training(
                entry=entry,
                variant=cell.settings["variant"],
                gamma=found["gamma_seen"],
                mean_norm=found["mean_norm"],
                least=found["least_steps"],
                learning_rate=cell.settings["learning_rate"],
                batch_size=cell.settings["batch_size"],
                memory=1 / (1 - getattr(optimizer, "beta2", 0)),
                outlier_dimensions=cell.data.outlier_dimensions,
                d_in=cell.data.d_in,
                d_sae=cell.sae.d_sae,
                k=cell.sae.k,
                **{event: found[f"steps_{event}"] for event in ("bias_50", "bias_90", "bias_99", "revived")},
            )


def write_table(path: Path, trainings: Sequence[Training]) -> None:
    """Writes one row for each training."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Training)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(one) for one in trainings)


def read_table(path: Path) -> list[Training]:
    """Reads what `write_table` wrote."""
    kinds = {name: kind if isinstance(kind, type) else float for name, kind in get_type_hints(Training).items()}
    with path.open(newline="") as file:
        rows: list[dict[str, Any]] = [
            {name: kinds[name](text) if text else None for name, text in row.items()} for row in csv.DictReader(file)
        ]
    return [Training(**row) for row in rows]


def fit(trainings: Sequence[Training]) -> Law:
    """Fits one law to the logarithms of the steps to all events, by least squares."""
    from scipy.optimize import least_squares

    reached = {event: [one for one in trainings if getattr(one, event) is not None] for event in SHARES}
    settings = {event: columns(ones) for event, ones in reached.items()}
    measured = {event: np.log([getattr(one, event) for one in ones]) for event, ones in reached.items()}

    def errors(values: np.ndarray) -> np.ndarray:
        law = _law(values)
        return np.concatenate([np.log(law.steps(event, settings[event])) - measured[event] for event in SHARES])

    return _law(least_squares(errors, constants(GUESS), x_scale="jac").x)


def columns(trainings: Sequence[Training]) -> dict[str, np.ndarray]:
    """Returns each setting of the trainings as an array."""
    return {name: np.array([one.settings[name] for one in trainings]) for name in REFERENCE}


def constants(law: Law) -> np.ndarray:
    """Lists the constants of a law: logarithms of steps and of the disturbance, and powers as they are."""
    steps = [np.log(law.undisturbed[event]) for event in SHARES]
    return np.array([*steps, np.log(law.disturbance), law.gamma, law.learning_rate, law.both, law.memory])


def _law(values: np.ndarray) -> Law:
    """Returns the law with the constants that `constants` lists."""
    *steps, disturbance = np.exp(values[:4]).tolist()
    gamma, learning_rate, both, memory = values[4:].tolist()
    return Law(dict(zip(SHARES, steps, strict=True)), gamma, learning_rate, both, memory, disturbance)


def predicted(law: "Law | Powers", trainings: Sequence[Training]) -> dict[str, list[float]]:
    """Returns predicted over measured steps of the trainings in which an event happened, for each event."""
    return {
        event: [
            float(law.steps(name, one.settings)) / getattr(one, event)
            for one in trainings
            if getattr(one, event) is not None
        ]
        for event, name in PREDICTED_BY.items()
    }


def predicted_unseen(
    trainings: Sequence[Training],
    seen: Callable[[Training], bool],
    fitted: Callable[[Sequence[Training]], "Law | Powers"],
) -> dict[str, list[float]]:
    """Predicts the trainings that are not seen by the law fitted to those that are: see `predicted`."""
    law = fitted([one for one in trainings if seen(one)])
    return predicted(law, [one for one in trainings if not seen(one)])


def held_out(
    trainings: Sequence[Training],
    splits: int = SPLITS,
    fitted: Callable[[Sequence[Training]], "Law | Powers"] = fit,
) -> "dict[str, Errors]":
    """Errors on combinations of settings that the fit has not seen, for each event."""
    ratios: dict[str, list[float]] = {event: [] for event in PREDICTED_BY}
    for split in range(splits):
        order = random.Random(split).sample(trainings, len(trainings))
        for fold in range(FOLDS):
            left_out = set(map(id, order[fold::FOLDS]))
            unseen = predicted_unseen(trainings, lambda one, out=left_out: id(one) not in out, fitted)
            for event, found in unseen.items():
                ratios[event] += found
    return {event: Errors.of(found) for event, found in ratios.items()}


def later(law: "Law | Powers") -> "dict[str, Errors]":
    """Errors of a law on the trainings that ran when the law of `saelib.theory.recovery` had been fixed."""
    covered = [one for one in read_table(LATER) if one.covered]
    return {event: Errors.of(ratios) for event, ratios in predicted(law, covered).items() if ratios}


def extrapolated(trainings: Sequence[Training]) -> "dict[str, dict[str, Errors]]":
    """Errors on all trainings with the smallest, and with the largest, value of a setting, if the fit saw none of them.

    Settings with fewer than three values are left out, because the fit could then know nothing of them.
    """
    found = {}
    for name in TESTED:
        values = sorted({one.value(name) for one in trainings})
        for value in (values[0], values[-1]) if len(values) > 2 else ():
            unseen = predicted_unseen(trainings, lambda one, at=(name, value): one.value(at[0]) != at[1], fit)
            found[f"{name} = {value:g}"] = {event: Errors.of(ratios) for event, ratios in unseen.items() if ratios}
    return found


def noise(trainings: Sequence[Training], others: Sequence[Training]) -> dict[str, float]:
    """Standard deviations over seeds of the logarithms of the steps, from pairs that differ only by their seed."""
    by_settings = {one.key: one for one in others}
    pairs = [(one, by_settings[one.key]) for one in trainings if one.key in by_settings]
    found: dict[str, float] = {"pairs": len(pairs)}
    for event in SHARES:
        steps = [[getattr(one, event) for one in pair] for pair in pairs]
        differences = np.diff(np.log([both for both in steps if None not in both]))
        found[event] = float(np.sqrt((differences**2).mean() / 2))
    return found


def revival(trainings: Sequence[Training]) -> dict[str, float]:
    """Compares whether latents came to life with the rule of `saelib recovery`, and their steps with those of 99 %."""
    ended = [one for one in trainings if one.bias_99 is not None]
    right = sum((relative_rate(one.settings) <= HARMLESS_RATE) == (one.revived is not None) for one in ended)
    ratios = [one.revived / one.bias_99 for one in ended if one.revived is not None and one.bias_99 is not None]
    return {
        "trainings": len(ended),
        "came_to_life": len(ratios),
        "rule_right": right,
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
    }


def in_words(
    trainings: int,
    law: Law,
    errors: dict[str, dict[str, Errors]],
    chance: dict[str, float],
    revived: dict[str, float],
) -> Iterator[str]:
    """Prints the law as it stands in `saelib.theory.recovery`, and its errors."""
    yield f"{trainings} trainings; the law:"
    yield "  undisturbed: " + ", ".join(f"{event} {steps:.4g}" for event, steps in law.undisturbed.items())
    yield f"  disturbance: {law.disturbance:.4g}"
    yield "  powers: " + ", ".join(
        f"{name} {value:.2f}" for name, value in asdict(law).items() if name not in ("undisturbed", "disturbance")
    )
    yield f"relative errors on trainings left out, {SPLITS} splits into {FOLDS}:  median    90 %   worst  within 20 %"
    for event in PREDICTED_BY:
        for what, found in errors.items():
            if event not in found:
                continue
            one = found[event]
            name = ROWS.get(what, f"without {what}")
            numbers = f"{one.median:7.1%} {one.ninety:7.1%} {one.worst:7.1%} {one.within_20:12.0%}"
            yield f"  {event}  {name:32} {one.predictions:5} {numbers}"
    yield "standard deviations over seeds: " + ", ".join(f"{name} {value:.3g}" for name, value in chance.items())
    yield "latents come to life: " + ", ".join(f"{name} {value:.4g}" for name, value in revived.items())


def severities_in_words(trainings: Sequence[Training]) -> Iterator[str]:
    """Prints measured and predicted steps of trainings that differ only by their severity."""
    for one in trainings:
        pairs = (f"{getattr(one, event):,.0f} ({LAW.steps(event, one.settings):,.0f})" for event in SHARES)
        yield f"gamma {one.gamma:g}, steps to 50, 90, 99 % (by the law): " + ", ".join(pairs)


def by_severity(trainings: Sequence[Training]) -> list[Training]:
    """Returns the trainings that differ only by their severity gamma, at the setting that has most of them."""
    ones = [one for one in trainings if one.covered]
    rest = [tuple(one.value(name) for name in TESTED if name != "gamma") for one in ones]
    common = max(
        rest, key=lambda at: len({one.value("gamma") for one, own in zip(ones, rest, strict=True) if own == at})
    )
    chosen = {one.value("gamma"): one for one, own in zip(ones, rest, strict=True) if own == common}
    return [chosen[gamma] for gamma in sorted(chosen)]
