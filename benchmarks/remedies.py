"""Rules for a layer's remedy: how often each misses one that is needed, and how often it asks for one in vain.

Two questions: whether centering leaves more than 5 % dead, and which of raw, center_median and pca is recommended
(`saelib.preprocessing.recommend`, as by `auto`, diagnose and the page). Truth is what was counted: by `death_law
--append FILE`, and in the paper's released table.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import chi2

from benchmarks.death_law import PREPROCESSINGS, Comparison
from benchmarks.theory import RELEASED_SETTING
from benchmarks.timing import command_line, environment, environment_line, show
from saelib.init_death.result import load_result
from saelib.preprocessing.choose import choose_preprocessing
from saelib.preprocessing.recommend import ACCEPTED_AFTER, MeasuredDeath, recommend
from saelib.stats import LayerStats, load_stats
from saelib.theory.closed_forms import rank_bar
from saelib.theory.spectrum import dead_total_from_ranks

PACKAGES = ("numpy", "scipy", "polars")
LEFT = ACCEPTED_AFTER["center_median"]
"""Death after centering that asks for whitening, in the first question."""


@dataclass(frozen=True)
class Case:
    """One layer and setting: counted and predicted total death by preprocessing, and the layer's statistics."""

    counted: Mapping[str, float]
    predicted: Mapping[str, float]
    effective_rank: float
    d_in: int
    d_sae: int
    k: int
    stats: LayerStats | None = None
    tokens: int = RELEASED_SETTING["tokens"]
    standard_error: Mapping[str, float] = field(default_factory=dict)
    """Preprocessing -> standard error of `predicted`; a missing one counts as 0."""


@dataclass(frozen=True)
class Verdict:
    """The errors of one rule over some cases."""

    cases: int
    needed: int
    misses: int
    false_alarms: int


Rule = Callable[[Case], bool]

FROM_STATISTICS: dict[str, Rule] = {
    "effective rank < 2 % of d_in": lambda case: case.effective_rank < 0.02 * case.d_in,
    "effective rank < 35": lambda case: case.effective_rank < 35,
    "effective rank < k / 2": lambda case: case.effective_rank < case.k / 2,
    "bar above the signal: P(chi2(2 rank) < t_k^2) > 5 %": lambda case: _chi2(case) > LEFT,
    "spectrum's form, no fit, > 5 %": lambda case: _by_rank(case) > LEFT,
}
FROM_PROBES: dict[str, Rule] = {"probes > 5 %": lambda case: case.predicted["center_median"] > LEFT}


def _chi2(case: Case) -> float:
    return float(chi2.cdf(max(rank_bar(case.d_sae, case.k), 0) ** 2, 2 * case.effective_rank))


def _by_rank(case: Case) -> float:
    at = {"d_sae": case.d_sae, "k": case.k, "tokens": case.tokens}
    unfitted = {"signal_scale": 1, "tokens_per_rank": np.inf}
    return dead_total_from_ranks(0, 0, case.effective_rank, case.d_in, **at, **unfitted)


def main(argv: list[str]) -> None:
    parser = command_line("remedies", __doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a suite: its stats/")
    parser.add_argument("--counted", type=Path, help="what `death_law --append` wrote about the same suite")
    parser.add_argument("--released", type=Path, help="the paper's table init_stats.csv")
    options = parser.parse_args(argv)
    if not options.counted and not options.released:
        parser.error("name --counted, --released or both")
    found: dict[str, Verdict] = {}
    if options.counted:
        for setting, cases in suite_cases(options.results, options.counted).items():
            found |= {f"{setting} {name}": one for name, one in judge(cases, FROM_STATISTICS | FROM_PROBES).items()}
            found |= {f"{setting} least remedy: {name}": one for name, one in judge_choices(cases).items()}
    if options.released:
        cases = released_cases(pl.read_csv(options.released))
        found |= {f"released {name}": one for name, one in judge(cases, FROM_STATISTICS).items()}
    lines = [f"{'':72} {'cases':>6} {'needed':>7} {'misses':>7} {'false alarms':>13}"]
    lines += [
        f"{name:72} {one.cases:6} {one.needed:7} {one.misses:7} {one.false_alarms:13}" for name, one in found.items()
    ]
    report = {name: asdict(one) for name, one in found.items()} | {"environment": environment(*PACKAGES)}
    show(report, [*lines, environment_line(*PACKAGES)], options.json)


def suite_cases(results: Path, counted: Path) -> dict[str, list[Case]]:
    """Reads the cases of each setting."""
    grouped: dict[tuple[str, str, int], dict[str, Comparison]] = defaultdict(dict)
    for line in counted.read_text().splitlines():
        one = Comparison(**json.loads(line))
        grouped[one.setting, one.model, one.layer][one.preprocessing] = one
    cases: dict[str, list[Case]] = defaultdict(list)
    for (setting, model, layer), by_name in grouped.items():
        stats = load_stats(results / "stats" / model / f"layer_{layer}.json")
        tokens = load_result(results / "init_death" / model / f"layer_{layer}.json").tokens
        d_sae, k = map(int, setting.split("/"))
        counts = {name: one.counted for name, one in by_name.items()}
        predictions = {name: one.predicted for name, one in by_name.items()}
        errors = {name: one.standard_error for name, one in by_name.items()}
        rank = stats.effective_rank or 0.0
        cases[setting].append(Case(counts, predictions, rank, stats.d_in, d_sae, k, stats, tokens, errors))
    return cases


def released_cases(table: pl.DataFrame) -> list[Case]:
    """Makes a case of each row, without predictions by probes."""
    columns = table.select("dead_pct_init_centered", "effective_rank", "hidden_dim").rows()
    at = RELEASED_SETTING["d_sae"], RELEASED_SETTING["k"]
    return [Case({"center_median": dead / 100}, {}, rank, d, *at) for dead, rank, d in columns]


def judge(cases: Sequence[Case], rules: Mapping[str, Rule]) -> dict[str, Verdict]:
    """Compares whether centering leaves more than 5 % dead with what each rule says."""
    needed = [case.counted["center_median"] > LEFT for case in cases]
    found = {}
    for name, rule in rules.items():
        said = [rule(case) for case in cases]
        pairs = list(zip(needed, said, strict=True))
        found[name] = Verdict(len(cases), sum(needed), pairs.count((True, False)), pairs.count((False, True)))
    return found


def judge_choices(cases: Sequence[Case]) -> dict[str, Verdict]:
    """Counts how often a rule chooses less than counting recommends (a miss), or more (a false alarm)."""
    rules: dict[str, Callable[[Case], str]] = {
        "the paper's rule": _by_the_paper,
        "probes": lambda case: least(case.predicted, case.standard_error),
    }
    found = {}
    for name, rule in rules.items():
        chosen = [PREPROCESSINGS.index(rule(case)) for case in cases]
        wanted = [PREPROCESSINGS.index(least(case.counted, {})) for case in cases]
        pairs = list(zip(chosen, wanted, strict=True))
        misses, alarms = sum(one < other for one, other in pairs), sum(one > other for one, other in pairs)
        found[name] = Verdict(len(cases), sum(index > 0 for index in wanted), misses, alarms)
    return found


def _by_the_paper(case: Case) -> str:
    assert case.stats is not None, "a case of a suite"
    return choose_preprocessing(case.stats, case.d_sae, case.k, case.tokens).preprocessing


def least(dead: Mapping[str, float], standard_error: Mapping[str, float]) -> str:
    """The preprocessing that `recommend` takes; death without a standard error is taken for exact."""
    found = recommend({name: MeasuredDeath(dead[name], standard_error.get(name, 0), 1) for name in PREPROCESSINGS})
    assert found is not None, "all of PREPROCESSINGS are candidates"
    return found.preprocessing
