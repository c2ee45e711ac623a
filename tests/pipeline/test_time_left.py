"""Time left, from what other jobs took."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from saelib.config import Config
from saelib.pipeline.plan import Job
from saelib.pipeline.resources import job_seconds
from saelib.pipeline.time_left import START_SECONDS, Announcer, Forecast, duration, earlier_seconds, in_words


@pytest.fixture
def config() -> Config:
    source = {"family": "arrays", "files": {1: "a.npy"}}
    model = {"domain": "x", "source": source, "layers": 1, "representative_layer": 1, "width": 512}
    return Config.model_validate({"models": {"one": model, "two": model}, "extraction": {"threads": 2}})


def jobs(**after: tuple[str, ...]) -> dict[str, Job]:
    found = {}
    for name, before in after.items():
        stage, _, rest = name.partition("__")
        found[f"{stage}/{rest}"] = Job(stage, rest, (), before)
    return found


def test_a_job_that_ran_before_takes_as_long_again_and_threads_share_the_machine(config: Config) -> None:
    planned = jobs(stats__one=(), stats__two=(), extract__one=())
    forecast = Forecast(config, planned, {"stats/one": 30.0, "stats/two": 50.0, "extract/one": 100.0})
    assert forecast.seconds_left(1) == 180.0
    # The extraction takes both processors, the two others one each.
    assert forecast.seconds_left(2) == 140.0
    # On a cluster, where two jobs may run, whatever their threads.
    assert forecast.seconds_left(2, of_threads=False) == 100.0
    forecast.ended("extract/one", 60.0)
    assert forecast.seconds_left(2) == 50.0  # the longest one, though 80 / 2 is less
    forecast.ended("stats/one", 60.0)
    forecast.ended("stats/two", 60.0)
    assert forecast.seconds_left(2) == 0.0


def test_jobs_that_wait_for_each_other_take_their_sum(config: Config) -> None:
    planned = jobs(extract__one=(), stats__one=("extract/one",), theory__all=("stats/one",))
    forecast = Forecast(config, planned, {"extract/one": 10.0, "stats/one": 20.0, "theory/all": 3.0})
    assert forecast.seconds_left(99) == 33.0


def test_of_a_new_job_its_stage_tells(config: Config) -> None:
    planned = jobs(stats__one=(), stats__two=())
    forecast = Forecast(config, planned, {"stats/one": 40.0})
    assert forecast.seconds_left(1) == pytest.approx(80.0)  # both models have the same sizes
    forecast.ended("stats/one", 10.0)
    assert forecast.seconds_left(1) == pytest.approx(10.0)


def test_another_stage_never_makes_a_job_slower_than_a_slow_machine(config: Config) -> None:
    # Kernels that are compiled in the first job say nothing about the second.
    forecast = Forecast(config, jobs(theory__all=()), {"stats/one": 1e6})
    assert forecast.seconds_left(1) == pytest.approx(START_SECONDS)


def test_before_any_job_has_ended_sizes_give_a_bound(config: Config) -> None:
    planned = jobs(stats__one=(), train__one=())
    forecast = Forecast(config, planned, {})
    bound = sum(START_SECONDS + job_seconds(config, stage, "one") for stage in ("stats", "train"))
    assert forecast.seconds_left(1) == pytest.approx(bound)
    assert not forecast.measured
    assert in_words(720, measured=False) == "at most about 12 min (by sizes alone)"
    forecast.ended("stats/one", 1.0)
    assert forecast.measured
    assert in_words(720, measured=True) == "about 12 min"


def test_benchmarks_of_the_latest_run_count(tmp_path: Path) -> None:
    for run, seconds in (("20260101-000000-aaaaaa", "10.5"), ("20260102-000000-aaaaaa", "20.5")):
        file = tmp_path / "runs" / run / "benchmarks" / "stats" / "a.b" / "layers_1-2.tsv"
        file.parent.mkdir(parents=True)
        file.write_text(f"s\th:m:s\n{seconds}\t0:00:10\n")
    old = tmp_path / "runs" / "20260101-000000-aaaaaa" / "benchmarks" / "theory" / "all.tsv"
    old.parent.mkdir()
    old.write_text("s\th:m:s\n2.0\t0:00:02\n")
    (old.parent.parent / "report.tsv").write_text("s\th:m")  # being written
    assert earlier_seconds(tmp_path) == {"stats/a.b/layers_1-2": 20.5, "theory/all": 2.0}
    assert earlier_seconds(tmp_path / "none") == {}


def test_it_speaks_when_a_job_of_the_plan_has_ended(config: Config) -> None:
    planned = jobs(stats__one=(), stats__two=())
    forecast = Forecast(config, planned, {})
    said: list[str] = []
    announcer = Announcer(forecast, lambda: forecast.seconds_left(1), said.append)
    announcer.announce()

    def event(kind: str, **about: object) -> None:
        extra = {"event": SimpleNamespace(value=kind)} | about
        announcer.emit(logging.makeLogRecord(extra))

    for number, name in ((1, "one"), (2, "two")):
        event("job_info", jobid=number, rule_name="stats", wildcards={"job": name, "run": "r"}, created=0.0)
    event("job_info", jobid=3, rule_name="all", wildcards=None, created=0.0)
    event("job_finished", job_id=2, created=120.0)
    event("job_finished", job_id=3, created=130.0)
    event("job_finished", job_id=1, created=240.0)
    announcer.emit(logging.makeLogRecord({"msg": "Snakemake says much else"}))
    assert said[0].startswith("saelib: 0 of 2 jobs done, at most about ")
    assert said[1:] == ["saelib: 1 of 2 jobs done, about 2 min left"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "10 s"), (44, "40 s"), (89, "90 s"), (90, "2 min"), (800, "13 min"), (6000, "1.7 h"), (400_000, "111 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == f"about {said}"
