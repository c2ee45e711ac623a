"""The law of `saelib recovery`: its fit to trainings of configs/lab-recovery.yaml, and its errors on those left out."""

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from benchmarks.timing import command_line, show
from saelib.theory.recovery import HARMLESS_RATE, LAWS, REFERENCE, Law, logarithms, relative_rate

CONFIG = Path(__file__).parents[1] / "configs" / "lab-recovery.yaml"
TABLE = Path(__file__).with_suffix(".csv")
"""The trainings that the constants of `saelib.theory.recovery` were fitted to."""
RIDGE = 1e-3
"""Pull of exponents towards 0. It decides only those of settings that do not differ between the fitted trainings."""
LABELS = {"bias_50": "50 % of the mean in the bias", "bias_90": "90 %", "bias_99": "99 %"}
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
    def settings(self) -> dict[str, float]:
        """The settings that the law knows."""
        return {
            name: self.mean_norm / self.gamma if name == "signal_norm" else getattr(self, name) for name in REFERENCE
        }

    def value(self, name: str) -> float:
        """Returns a setting to three digits, so that equal ones compare equal."""
        return float(f"{self.settings[name]:.3g}")

    @property
    def covered(self) -> bool:
        """True for trainings that the law is about: small SAEs, trained whole by Adam, on one outlier dimension."""
        whole_by_adam = self.variant not in ("frozen_features", "sign_sgd")
        return whole_by_adam and self.outlier_dimensions == 1 and self.d_in <= 100


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
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="of configs/lab-recovery.yaml, instead of the table"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the trainings as a table (.csv)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw predicted against measured steps")
    options = parser.parse_args(argv)
    trainings = read_table(TABLE) if options.results is None else list(read_results(options.results))
    if options.write:
        write_table(options.write, trainings)
    if options.figure:
        draw(trainings, options.figure)
    covered = [one for one in trainings if one.covered]
    laws = {event: fit(covered, event) for event in LAWS}
    errors = {event: {"all": held_out(covered, event)} | extrapolated(covered, event) for event in LAWS}
    report = {
        "trainings": len(covered),
        "laws": {event: asdict(law) for event, law in laws.items()},
        "errors": {event: {what: asdict(one) for what, one in found.items()} for event, found in errors.items()},
        "revival": revival(covered),
    }
    show(report, list(in_words(len(covered), laws, errors, revival(covered))), options.json)


def read_results(results: Path) -> Iterator[Training]:
    """Reads the cells that exist of configs/lab-recovery.yaml."""
    from saelib.config.lab import RecoveryExperiment
    from saelib.config.load import load_config
    from saelib.config.synthetic import SyntheticConfig
    from saelib.lab.result import load_cell

    config = load_config(CONFIG).model_copy(update={"results": results})
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


def fit(trainings: Sequence[Training], event: str) -> Law:
    """Fits the powers of an event to the logarithms of the steps, by least squares."""
    reached = [one for one in trainings if getattr(one, event) is not None]
    logs = [logarithms(one.settings) for one in reached]
    names = list(logs[0])
    steps = np.log([getattr(one, event) for one in reached])
    x = np.array([[1.0, *(one[name] for name in names)] for one in logs])
    pull = RIDGE * len(x) * np.diag([0.0, *(1.0 for _ in names)])
    constant, *powers = np.linalg.solve(x.T @ x + pull, x.T @ steps).tolist()
    return Law(float(np.exp(constant)), dict(zip(names, powers, strict=True)))


def predicted_unseen(trainings: Sequence[Training], event: str, seen: Callable[[Training], bool]) -> list[float]:
    """Predicts the trainings that are not seen by the law of those that are, and returns predicted over measured."""
    law = fit([one for one in trainings if seen(one)], event)
    unseen = [one for one in trainings if not seen(one) and getattr(one, event) is not None]
    return [law.steps(one.settings) / getattr(one, event) for one in unseen]


def held_out(trainings: Sequence[Training], event: str) -> "Errors":
    """Errors on combinations of settings that the fit has not seen."""
    ratios: list[float] = []
    for split in range(SPLITS):
        order = random.Random(split).sample(trainings, len(trainings))
        for fold in range(FOLDS):
            left_out = set(map(id, order[fold::FOLDS]))
            ratios += predicted_unseen(trainings, event, lambda one, out=left_out: id(one) not in out)
    return Errors.of(ratios)


def extrapolated(trainings: Sequence[Training], event: str) -> "dict[str, Errors]":
    """Errors on all trainings with the smallest, and with the largest, value of a setting, if the fit saw none of them.

    Settings with fewer than three values are left out, because the fit could then know nothing of them.
    """
    found = {}
    for name in REFERENCE:
        values = sorted({one.value(name) for one in trainings})
        for value in (values[0], values[-1]) if len(values) > 2 else ():
            ratios = predicted_unseen(trainings, event, lambda one, at=(name, value): one.value(at[0]) != at[1])
            found[f"{name} = {value:g}"] = Errors.of(ratios)
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
    trainings: int, laws: dict[str, Law], errors: dict[str, dict[str, Errors]], revived: dict[str, float]
) -> Iterator[str]:
    """Prints constants as they stand in `saelib.theory.recovery`, and the errors."""
    yield f"{trainings} trainings; constants:"
    for event, law in laws.items():
        powers = ", ".join(f'"{name}": {power:.2f}' for name, power in law.powers.items())
        yield f'  "{event}": Law({law.factor:.0f}, {{{powers}}}),'
    yield f"relative errors on trainings left out, {SPLITS} splits into {FOLDS}:  median    90 %   worst  within 20 %"
    for event, found in errors.items():
        for what, one in found.items():
            numbers = f"{one.median:7.1%} {one.ninety:7.1%} {one.worst:7.1%} {one.within_20:12.0%}"
            yield f"  {event}  {what if what == 'all' else f'without {what}':32} {one.predictions:5} {numbers}"
    yield "latents come to life: " + ", ".join(f"{name} {value:.4g}" for name, value in revived.items())


def draw(trainings: Sequence[Training], path: Path) -> None:
    """Draws measured steps against ||mu||_inf / learning rate, and against the prediction."""
    import matplotlib

    matplotlib.use("agg")
    from saelib.report.figures.style import INK, letters, new_figure

    shown = [one for one in trainings if one.covered]
    figure = new_figure(2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for color, (event, label) in zip(("#3d6fb6", "#d0862c", "#4a9464"), LABELS.items(), strict=True):
        reached = [one for one in shown if getattr(one, event) is not None]
        steps = [getattr(one, event) for one in reached]
        predicted = [LAWS[event].steps(one.settings) for one in reached]
        for axes, x in zip(panels, ([one.least for one in reached], predicted), strict=True):
            axes.scatter(x, steps, s=9, color=color, alpha=0.75, lw=0, label=label)
    for axes, name in zip(panels, ("\u2016\u03bc\u2016\u221e / learning rate, steps", "predicted steps"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.axline((1e4, 1e4), (1e5, 1e5), color=INK, lw=0.8, ls="--", label="both axes equal")
    panels[0].set_ylabel("measured steps")
    letters(panels)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    figure.savefig(path, dpi=160)
