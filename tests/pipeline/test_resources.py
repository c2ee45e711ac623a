"""What jobs ask a scheduler for grows with what they handle, and the config has the last word."""

from pathlib import Path
from typing import Any

import pytest

from saelib.config import Config, load_config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.pipeline.plan import make_plan
from saelib.pipeline.resources import LONGEST_MINUTES, Resources, job_resources

PAPER = Path(__file__).parents[2] / "configs" / "paper.yaml"
STAGES = ["extract", "stats", "init_death", "train"]


def some_rates(count: int) -> list[float]:
    return [1e-4 * (1 + i) for i in range(count)]


def suite(model: dict[str, Any] | None = None, source: dict[str, Any] | None = None, **parts: Any) -> Config:
    entry = {
        "domain": "language",
        "source": {"family": "transformers", "weights": {"path": "weights"}} | (source or {}),
        "dataset": "docs",
        "layers": "1-8",
        "representative_layer": 4,
        "width": 1024,
        "parameters": 10**9,
    } | (model or {})
    if entry["source"]["family"] == "arrays":
        del entry["dataset"]
        entry["source"] = {"family": "arrays", "files": {layer: f"{layer}.npy" for layer in range(1, 9)}}
    raw = {"datasets": {"docs": {"kind": "python_docs"}}, "models": {"m": entry}} | parts
    return check_config(raw, "suite.yaml")


def memory(config: Config, stage: str) -> int:
    return job_resources(config, stage, "m/layers_1-8").mem_mb


@pytest.mark.parametrize("stage", [*STAGES, "theory", "report"])
def test_every_attempt_asks_for_more_memory(stage: str) -> None:
    name = "m/layers_1-8" if stage in STAGES else "all"
    asked = [job_resources(suite(), stage, name, attempt).mem_mb for attempt in (1, 2, 3)]
    assert asked[0] >= 600
    assert asked == [asked[0], 2 * asked[0], 3 * asked[0]]


@pytest.mark.parametrize("stage", STAGES)
def test_wider_models_ask_for_more(stage: str) -> None:
    narrow, wide = (job_resources(suite({"width": width}), stage, "m/layers_1-8") for width in (512, 8192))
    assert wide.mem_mb > narrow.mem_mb + 500
    assert wide.runtime > narrow.runtime


def test_memory_grows_with_what_must_be_in_memory() -> None:
    def more(stage: str, one: Config, other: Config) -> float:
        return (memory(other, stage) - memory(one, stage)) * 2**20

    # Weights in float32, in two copies while they are loaded; windows of eight layers in float16.
    assert more("extract", suite({"parameters": 10**9}), suite({"parameters": 3 * 10**9})) > 0.99 * 2 * 4 * 2 * 10**9
    few, many = (suite(extraction={"tokens": tokens}) for tokens in (2048, 65536))
    assert more("extract", few, many) > 0.99 * 2 * 8 * 63488 * 1024
    # Encoder and decoder with Adam's moments, for each learning rate; a dictionary and its packed copy for each seed.
    few, many = (suite(train={"d_sae": 8192, "learning_rates": some_rates(rates)}) for rates in (1, 8))
    assert more("train", few, many) > 7 * 2 * 3 * 4 * 8192 * 1024
    few, many = (suite(init_death={"d_sae": 8192, "seeds": seeds}) for seeds in (1, 5))
    assert more("init_death", few, many) > 4 * 2 * 4 * 8192 * 1024


def test_a_training_asks_for_the_learning_rates_of_the_variant_that_has_the_most() -> None:
    def asked(rates: int, own: int | None) -> Resources:
        variants = {"a": {}, "b": {"learning_rates": [1e-4, 2e-4]}}
        if own:
            variants["a"] = {"learning_rates": some_rates(own)}
        options = {"d_sae": 8192, "steps": 3000, "learning_rates": some_rates(rates), "variants": variants}
        return job_resources(suite(train=options), "train", "m/x")

    assert asked(8, None) == asked(1, 8) != asked(1, None)
    assert asked(8, 1) == asked(1, None)  # nobody uses the default ones


def test_the_time_of_a_training_is_that_of_all_its_steps_but_a_day_at_most() -> None:
    minutes = [job_resources(suite(train={"steps": steps}), "train", "m/x").runtime for steps in (1, 3000, 10**9)]
    assert minutes[0] < minutes[1] < minutes[2] == LONGEST_MINUTES
    assert job_resources(suite(train={"steps": 10**9}), "train", "m/x", 3).runtime == LONGEST_MINUTES
    assert job_resources(suite(train={"steps": 3000}), "train", "m/x", 2).runtime == 2 * minutes[1]


def test_unknown_sizes_count_as_large_ones() -> None:
    unknown = suite({"width": None, "parameters": None})
    for stage in STAGES:
        assert memory(unknown, stage) >= memory(suite({"width": 2048, "parameters": 10**8}), stage)


def test_gpus_are_asked_for_where_the_suite_says_so_and_they_help() -> None:
    def gpus(config: Config) -> list[int]:
        return [job_resources(config, stage, "m/layers_1-8").gpu for stage in STAGES]

    assert gpus(suite()) == [0, 0, 0, 0]
    assert gpus(suite(gpus=True)) == [1, 0, 0, 1]
    assert gpus(suite(source={"family": "arrays"}, gpus=True)) == [0, 0, 0, 1]
    assert gpus(suite(gpus=True, stats={"device": "auto"}, init_death={"device": "cuda"})) == [1, 1, 1, 1]
    folding = {"family": "alphafold3", "inputs": "in", "outputs": "out"}
    assert gpus(suite({"source": folding, "layers": 0, "representative_layer": None}, gpus=True))[0] == 0
    spread = {"device_map": "auto", "dtype": "bfloat16"}
    assert gpus(suite({"parameters": 7 * 10**10}, spread, gpus=True))[0] == 4  # 140 GB of weights on GPUs of 40
    own = {"resources": {"extract": {"gpu": 2}, "train": {"gpu": 0}}}
    assert gpus(suite(own, gpus=True)) == [2, 0, 0, 0]
    assert gpus(suite(own)) == [0, 0, 0, 0]


def test_an_extraction_on_a_gpu_asks_for_what_the_stages_along_with_it_take() -> None:
    devices = {"stats": {"device": "auto"}, "init_death": {"device": "auto", "d_sae": 8192}}
    model = {"width": 4096}
    alone, along = (job_resources(suite(model, gpus=True, **parts), "extract", "m/x") for parts in ({}, devices))
    others = [memory(suite(model, gpus=True, **devices), stage) for stage in ("stats", "init_death")]
    assert along.mem_mb == pytest.approx(alone.mem_mb + max(others), abs=1)
    assert along.runtime > alone.runtime
    assert job_resources(suite(model, **devices), "extract", "m/x") == job_resources(suite(model), "extract", "m/x")


def test_a_gpu_makes_the_estimate_shorter() -> None:
    minutes = [job_resources(suite(train={"steps": 3000}, gpus=on), "train", "m/x").runtime for on in (False, True)]
    assert minutes[1] < minutes[0]


def test_a_models_own_resources_replace_the_estimates_and_decide_no_result() -> None:
    own = suite({"resources": {"train": {"mem_mb": 5000, "runtime": 77}}})
    asked = [job_resources(own, "train", "m/layer_4/baseline", attempt) for attempt in (1, 2)]
    assert [(one.mem_mb, one.runtime) for one in asked] == [(5000, 77), (10_000, 77)]
    assert job_resources(own, "stats", "m/layers_1-8") == job_resources(suite(), "stats", "m/layers_1-8")
    keys = [[t.key for job in make_plan(config).jobs.values() for t in job.targets] for config in (own, suite())]
    assert keys[0] == keys[1]


def test_too_little_memory_is_refused_with_its_key() -> None:
    with pytest.raises(UserError, match=r"models\.m\.resources\.stats\.mem_mb"):
        suite({"resources": {"stats": {"mem_mb": 100}}})


def test_the_papers_suite_needs_few_submissions(tmp_path: Path) -> None:
    config = load_config(PAPER).model_copy(update={"results": tmp_path})
    jobs = list(make_plan(config).jobs.values())
    assert sum(len(model.layers) for model in config.models.values()) == 454
    assert sum(job.stage not in ("theory", "train", "report") for job in jobs) < 1500
    assert all(job_resources(config, job.stage, job.name).mem_mb >= 600 for job in jobs)


def test_training_straight_from_a_model_asks_for_both_and_for_all_that_share_a_pass() -> None:
    def memory(stream: object, **options: object) -> float:
        model = {"stream": stream, "parameters": 10**9} | options
        return job_resources(suite(model, train={"d_sae": 8192}), "train", "m/pass_1").mem_mb * 2**20

    weights, sae = 2 * 4 * 10**9, 2 * 3 * 4 * 8192 * 1024
    assert memory(True) > memory(False) + weights
    assert memory({"buffer_rows": 10**6}) - memory({"buffer_rows": 10**5}) == pytest.approx(9e5 * 1024 * 2, rel=0.01)
    two, eight = memory(True), memory(True, train_layers="1-4")
    assert eight > two + 3 * 4 * sae  # four variants of each of three more layers
    assert memory({"sweeps_per_pass": 4}, train_layers="1-4") < eight
    steps = {"steps": 3000, "d_sae": 64}
    alone, with_model = (
        job_resources(suite({"stream": on}, train=steps), "train", "m/pass_1").runtime for on in (False, True)
    )
    assert with_model > alone
    spread = {"device_map": "auto", "dtype": "bfloat16"}
    large = suite({"parameters": 7 * 10**10, "stream": True}, spread, gpus=True)
    assert job_resources(large, "train", "m/pass_1").gpu == 4


def test_experiments_ask_for_what_their_largest_cell_takes() -> None:
    def asked(**changes: Any) -> Resources:
        experiment = {"kind": "init_death", "shows": "x", "data": {"gamma": [1, 2]}, "seeds": 2} | changes
        return job_resources(check_config({"experiments": {"e": experiment}}, "lab"), "lab", "e/cell_1")

    few, many = asked(tokens=10_000), asked(tokens=10**6)
    assert few.gpu == 0
    assert many.mem_mb > few.mem_mb >= 600
    wide = {"sae": {"d_sae": 8192, "k": 64}, "tokens": 10**6}
    assert asked(**wide).runtime > many.runtime >= few.runtime
    assert asked(**wide, cells_per_job=1).runtime < asked(**wide).runtime
