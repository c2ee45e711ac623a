"""Fits find the powers and coefficients that made their data; projections add up and grow with what they should."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scale
from benchmarks.fewer_tokens import drawn, runs
from benchmarks.gpu.report import Step
from benchmarks.gpu.speeds import Speeds
from benchmarks.scaling import costs as cost_models
from benchmarks.scaling.costs import DISK, SECONDS, Costs, step_flops
from benchmarks.scaling.fits import Model, fit_line, fit_model, fit_power
from benchmarks.scaling.hardware import Hardware, StepCosts
from benchmarks.scaling.measure import measure_sweep
from benchmarks.scaling.project import project, with_tokens, without_gpus
from benchmarks.scaling.sizes import Point, Size, Sweep, sweeps
from saelib.config import Config, VariantConfig, load_config
from saelib.config.training import StreamConfig
from saelib.errors import UserError
from saelib.pipeline.needs import suite_needs

ROOT = Path(__file__).parents[2]
SIZES = [Size(tokens, d_in, 4 * d_in) for tokens in (1000, 3000, 10_000) for d_in in (64, 200, 500)]


def test_a_power_is_found_with_an_interval_that_holds_it() -> None:
    n = np.repeat([100.0, 200, 400, 800], 3)
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(len(n)))
    found = fit_power(n.tolist(), (3 * n**1.7 * noise).tolist())
    assert found is not None
    assert found.low < 1.7 < found.high
    assert found.high - found.low < 0.2
    assert fit_power([1, 2, 3], [1, 0, 1]) is None
    assert fit_power([1, 2], [1, 2]) is None


def test_the_interval_is_students() -> None:
    """Against the textbook's formula, as scipy has it."""
    from scipy.stats import linregress, t

    n, y = [1.0, 2, 4, 8, 16], [1.1, 1.9, 4.5, 7.7, 17]
    found, theirs = fit_power(n, y), linregress(np.log(n), np.log(y))
    assert found is not None
    half = t.ppf(0.975, 3) * theirs.stderr  # pyright: ignore[reportAttributeAccessIssue]
    assert found.high - found.exponent == pytest.approx(half)


def test_a_line_gives_start_and_slope() -> None:
    n = [1.0, 2, 4, 8]
    straight = fit_line(n, [5 + 3 * x for x in n])
    assert straight is not None
    assert (straight.a, straight.b, straight.worst) == pytest.approx((5, 3, 0), abs=1e-9)
    bent = fit_line(n, [x**2 for x in n])
    assert bent is not None
    assert bent.worst > 0.2


@pytest.mark.parametrize("stage", ["extract", "stats", "whitening", "store"])
def test_terms_give_back_the_coefficients_that_made_the_costs(stage: str) -> None:
    terms = SECONDS[stage]
    true = Model(terms, {name: 0.5 / terms[name](SIZES[4]) for name in terms}, 0)
    points = [Point(size, (true(size),), (1,), 1) for size in SIZES]
    found = fit_model(terms, points, [point.cpu_seconds for point in points])
    assert found.worst < 1e-6
    assert found.coefficients == pytest.approx(true.coefficients, rel=1e-4)


def unit_costs() -> Costs:
    """A second, or byte, for every unit of every term."""

    def ones(terms: cost_models.Terms) -> Model:
        return Model(terms, dict.fromkeys(terms, 1.0), 0)

    return Costs(
        {stage: ones(terms) for stage, terms in SECONDS.items()}, {s: ones(terms) for s, terms in DISK.items()}
    )


@pytest.fixture(scope="module")
def paper() -> Config:
    return load_config(ROOT / "configs" / "paper.yaml")


def test_a_projection_adds_up_and_follows_the_tokens(paper: Config) -> None:
    once, ten = (project(with_tokens(paper, n), unit_costs(), 10, Hardware()) for n in (1, 10))
    stages = [once[stage] for stage in ("extract", "stats", "init_death", "train")]
    assert once["total"].cpu_hours == pytest.approx(sum(stage.cpu_hours for stage in stages))
    assert once["total"].memory == max(stage.memory for stage in stages)
    assert once["extract"].disk == sum(needs.bytes or 0 for needs in suite_needs(paper))
    for field in ("gpu_hours", "cpu_hours", "disk_hours"):
        assert getattr(ten["extract"], field) == pytest.approx(10 * getattr(once["extract"], field), rel=0.01)
    assert ten["stats"].disk == pytest.approx(once["stats"].disk)
    assert ten["train"].gpu_hours == once["train"].gpu_hours  # as many steps


def test_training_costs_in_proportion_to_learning_rates_and_models(paper: Config) -> None:
    train = paper.train
    half = train.model_copy(update={"learning_rates": train.learning_rates[:1]})
    few = paper.model_copy(update={"train": half})
    full, less = (project(one, unit_costs(), 10, Hardware())["train"] for one in (paper, few))
    assert full.gpu_hours == pytest.approx(len(train.learning_rates) * less.gpu_hours)
    assert full.cpu_hours == less.cpu_hours  # rates share the rows that are read
    costs = unit_costs()
    hours = [without_gpus(one, costs)["train"] for one in (paper, few)]
    assert hours[0] == pytest.approx(len(train.learning_rates) * hours[1])


def test_training_straight_from_the_model_costs_its_forward_passes_and_no_disk(paper: Config) -> None:
    def train(**options: object) -> tuple[float, float]:
        models = {"esm2-3b": paper.models["esm2-3b"].model_copy(update=options)}
        cost = project(paper.model_copy(update={"models": models}), unit_costs(), 3, Hardware())["train"]
        return cost.gpu_hours, cost.disk_hours

    stored, streamed = train(), train(stream=StreamConfig())
    apart = train(stream=StreamConfig(sweeps_per_pass=1))
    forward = streamed[0] - stored[0]
    model, tokens = paper.models["esm2-3b"], paper.train.steps * paper.train.batch_size
    operations = 2.0 * (model.parameters or 0) * tokens
    assert forward == pytest.approx(Hardware().gpu_seconds(operations, dtype="float32") / 3600)
    assert apart[0] - stored[0] == pytest.approx(len(paper.train.variants) * forward)
    assert stored[1] > 0
    assert streamed[1] == 0


def test_a_step_is_counted_as_it_is_made() -> None:
    plain, auxk = VariantConfig(), VariantConfig.model_validate({"dead_latents": "auxk"})
    relu = VariantConfig.model_validate({"architecture": "relu"})
    tokens, d_in, d_sae, k = 64, 32, 256, 8
    encoder, selected = 2 * tokens * d_in * d_sae, 4 * 2 * tokens * k * d_in
    assert step_flops(plain, d_in, d_sae, k, tokens)[0] == encoder + selected
    assert step_flops(auxk, d_in, d_sae, k, tokens)[0] == 5 * encoder + selected
    assert step_flops(relu, d_in, d_sae, k, tokens)[0] == 5 * encoder
    assert step_flops(auxk, d_in, d_sae, k, tokens)[1] > step_flops(plain, d_in, d_sae, k, tokens)[1]


PER_FLOP, PER_BYTE = 3e-14, 2e-12
"""Seconds of a made GPU."""


def steps_of(sizes: Sequence[tuple[int, int]], precision: str = "float32") -> list[Step]:
    """Steps of the made GPU."""
    work = [(size, step_flops(VariantConfig(), *size, 64, 4096)) for size in sizes]
    ms = [1e3 * (PER_FLOP * flops + PER_BYTE * moved) for _, (flops, moved) in work]
    return [Step(*size, 64, 4096, precision, one) for (size, _), one in zip(work, ms, strict=True)]


BOTH = steps_of([(768, 8192), (4096, 65_536)])


def test_costs_of_operations_and_bytes_follow_from_steps_of_two_sizes() -> None:
    found = StepCosts.fitted([*BOTH, Step(768, 8192, 64, 4096, "tf32", 1e9)], "float32")
    assert (found.per_flop, found.per_byte) == pytest.approx((PER_FLOP, PER_BYTE), rel=1e-6)
    with pytest.raises(UserError, match=r"1 training steps in float32 .* needs two sizes"):
        StepCosts.fitted(BOTH[:1], "float32")
    with pytest.raises(UserError, match="0 training steps in bfloat16"):
        StepCosts.fitted(BOTH, "bfloat16")


def test_training_is_projected_from_measured_steps_and_forward_passes_are_not(paper: Config) -> None:
    plain = {"baseline": VariantConfig()}
    suite = paper.model_copy(update={"train": paper.train.model_copy(update={"variants": plain})})
    measured, assumed = (
        project(suite, unit_costs(), 10, hardware)
        for hardware in (Hardware(steps=StepCosts(PER_FLOP, PER_BYTE)), Hardware())
    )
    assert measured["extract"] == assumed["extract"]
    train, hours = suite.train, 0.0
    for needs in suite_needs(suite):
        flops, moved = step_flops(plain["baseline"], needs.width or 0, train.d_sae, train.k, train.batch_size)
        trained = len(suite.models[needs.name].trained_layers) * len(train.learning_rates) * train.steps
        hours += trained * (PER_FLOP * flops + PER_BYTE * moved) / 3600
    assert measured["train"].gpu_hours == pytest.approx(hours)


@pytest.fixture
def speeds() -> dict[str, Any]:
    return Speeds("H100, 80 GB", "python -m benchmarks gpu --only steps", {"torch": "2.9"}, BOTH).to_dict()


def test_the_page_says_which_card_was_measured_or_that_none_was(
    speeds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "sweeps", lambda quick: [])
    monkeypatch.setattr(scale, "measured_costs", lambda found: unit_costs())
    monkeypatch.setattr(scale, "stats_passes", lambda: 10)
    suite = str(ROOT / "configs" / "paper.yaml")
    scale.main(["--configfile", suite])
    assert "The same is assumed for training steps" in capsys.readouterr().out
    (tmp_path / "speeds.json").write_text(json.dumps(speeds))
    scale.main(["--configfile", suite, "--gpu", str(tmp_path / "speeds.json")])
    page = capsys.readouterr().out
    assert "Measured on H100, 80 GB: training steps in float32, 768 -> 8,192 in" in page
    assert "(python -m benchmarks gpu --only steps; torch 2.9)" in page
    assert "assumed for training steps" not in page
    scale.main(["--configfile", suite, "--gpu", str(tmp_path / "speeds.json"), "--json"])
    assert json.loads(capsys.readouterr().out)["measured_gpu"] == speeds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"card": "CPU"}, "was measured on a CPU"),
        ({"steps": [{"d_in": 768}]}, "should be the speeds.json"),
        ({"more": 1}, "should be the speeds.json"),
    ],
)
def test_a_file_that_is_no_table_of_a_card(
    change: dict[str, Any], message: str, speeds: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "speeds.json"
    with pytest.raises(UserError, match="cannot be read"):
        Speeds.read(file)
    file.write_text("[]")
    with pytest.raises(UserError, match=r"should be the speeds\.json"):
        Speeds.read(file)
    file.write_text(json.dumps(speeds))
    assert Speeds.read(file).to_dict() == speeds
    file.write_text(json.dumps(speeds | change))
    with pytest.raises(UserError, match=message):
        Speeds.read(file)


def test_every_stage_can_be_measured() -> None:
    """At sizes that only show that it runs."""
    tiny = {"extract": Size(1024, 64, layers=1), "train": Size(4096, 64, 512), "eigenvectors": Size(1, 16)}
    for stage in {sweep.stage for sweep in sweeps(quick=True)}:
        size = tiny.get(stage, Size(1024, 64, 256))
        (point,) = measure_sweep(Sweep(stage, "tokens", (size,), (1, 1), ""), repeats=1)
        assert point.cpu_seconds > 0
        assert (point.disk > 0) == (stage not in ("eigenvectors", "whitening"))


def test_sweeps_change_one_size() -> None:
    for quick, number in ((True, 3), (False, 4)):
        for sweep in sweeps(quick):
            assert len({getattr(size, sweep.axis) for size in sweep.sizes}) == len(sweep.sizes) == number
            others = {"tokens", "d_in", "d_sae", "layers"} - {sweep.axis}
            assert all(len({getattr(size, other) for size in sweep.sizes}) == 1 for other in others)


def test_parts_of_a_store_share_no_row() -> None:
    example = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 20)).astype(np.int32)
    for parts in (drawn(1000, 200), runs(example, 200)):
        assert len(parts) == 4
        assert len(np.unique(np.concatenate(parts))) == 800
    for part in runs(example, 200):
        numbers = np.unique(example[part])
        assert numbers.max() - numbers.min() + 1 == len(numbers) <= 11  # whole examples in a row
