"""Training on synthetic data obeys the laws that the dynamics rest on."""

import math
from typing import Any

import numpy as np
import pytest

from saelib.config.load import check_config
from saelib.lab.trainees import Trainee, classes
from tests.lab.cells import Memory, mean, run, run_into

BIAS_ALONE = {"frozen": "features", "optimizer": {"kind": "adam", "beta2": 0.9}}
SMALL: dict[str, Any] = {
    "kind": "training",
    "data": {"gamma": 5},
    "sae": {"d_sae": 100, "k": 5},
    "batch_size": 256,
    "heldout_tokens": 1024,
    "seeds": 1,
}


def test_features_take_up_the_mean_before_the_bias_does() -> None:
    for result in run(**SMALL | {"data": {"gamma": [5, 20]}, "steps": 500, "record_every": 20}).values():
        feature, bias = (
            np.array([values[0] for values in result.measured[f"{name}_capture"]]) for name in ("feature", "bias")
        )
        home = int(np.argmax(feature > 0.9))
        assert home > 0
        assert bias[: home + 1].max() < 0.05


def test_a_bias_alone_moves_by_the_learning_rate_per_step() -> None:
    """With frozen features, Adam takes t = 0.99 ||mu|| / lr steps to 99 %, within 5 %.

    Its memory of squared gradients must be short compared with t: a longer one remembers the larger ones of the start.
    """
    rate, gamma = 0.05, 20
    config = {"learning_rate": rate, "data": {"gamma": gamma}, "variants": {"v": BIAS_ALONE}}
    result = run(**SMALL | config | {"steps": 1500, "record_every": 10})["all"]
    captured = np.array([values[0] for values in result.measured["bias_capture"]])
    norm = gamma * math.sqrt(9.8)  # ||sigma|| = 3.13 of the default features
    expected = 0.99 * norm / rate
    reached = result.at["step"][int(np.argmax(captured >= 0.99))]
    assert reached == pytest.approx(expected, rel=0.05)
    halfway = int(np.argmax(np.array(result.at["step"]) >= expected / 2))
    assert captured[halfway] == pytest.approx(0.5, abs=0.03)


def test_latents_that_are_never_positive_get_no_gradient() -> None:
    config = check_config({"experiments": {"e": {"shows": "x"} | SMALL | {"data": {"gamma": 20}}}}, "test")
    experiment: Any = config.experiments["e"]
    experiment = experiment.model_copy(update={"variants": {"baseline": experiment.variants["baseline"]}})
    (cell,) = experiment.cells()
    (group,) = classes([Trainee(experiment, cell, 0)])
    ((_, sae),) = group.saes()
    before = sae.W_enc.detach().clone()
    for _ in range(30):
        group.step()
    ((_, sae),) = group.saes()
    assert group.population is not None
    (member,) = group.population.members
    never = member.tokens_since_positive == 30 * 256
    assert 20 < int(never.sum()) < 60
    assert (sae.W_enc[:, never] == before[:, never]).all()
    assert (sae.W_enc[:, ~never] != before[:, ~never]).any()


def test_centering_recovers_the_features_that_a_large_mean_hides() -> None:
    variants = {
        "baseline": {},
        "center_median": {"preprocessing": "center_median"},
        "rescale": {"preprocessing": "rescale"},
    }
    config = {"data": {"gamma": 40}, "variants": variants, "learning_rate": 1e-3, "steps": 1500, "record_every": 1500}
    found = run(**SMALL | config)
    assert mean(found["variant=center_median"], "dead_relu", 0) == 0
    assert mean(found["variant=center_median"], "mmcs") > 0.85
    for variant in ("baseline", "rescale"):  # the length of a token changes no ranking
        assert mean(found[f"variant={variant}"], "mmcs") < 0.46
        assert mean(found[f"variant={variant}"], "dead_total") > 0.85
    assert found["variant=baseline"].measured["dead_total"][0] == found["variant=rescale"].measured["dead_total"][0]


def test_a_cell_is_the_same_alone_and_among_others() -> None:
    config = {"steps": 40, "record_every": 20, "variants": {"baseline": {}, "frozen": {"frozen": "b_dec"}}}
    together = run(**SMALL | config | {"data": {"gamma": [2, 5]}})
    alone = run(**SMALL | config | {"data": {"gamma": 5}, "variants": {"baseline": {}}})
    assert together["gamma=5.0, variant=baseline"] == alone["all"]


@pytest.mark.parametrize("finished", [1, 3])
def test_a_killed_job_resumes_with_its_finished_seeds(finished: int) -> None:
    class Killed(Exception): ...

    class Mortal(Memory):
        def keep(self, cell: Any, seed: int, rows: Any) -> None:
            if len(self.seeds) == finished:
                raise Killed
            super().keep(cell, seed, rows)

    config = SMALL | {"data": {"gamma": [2, 5]}, "steps": 20, "record_every": 10, "seeds": 2}
    whole, first, second = Memory(), Mortal(), Memory()
    run_into(whole, **config)
    with pytest.raises(Killed):
        run_into(first, **config)
    second.seeds |= first.seeds
    kept = dict(second.seeds)
    assert run_into(second, **config) == whole.results
    assert all(second.seeds[place] is rows for place, rows in kept.items())  # they were not trained again


def test_records_of_latents_tell_their_fates() -> None:
    config = {"data": {"gamma": 20}, "steps": 100, "record_every": 50, "per_latent": True}
    result = run(**SMALL | config)["all"]
    assert len(result.at["latent"]) == 3 * 100
    ends = {
        (step, latent): bool(value[0])
        for step, latent, value in zip(
            result.at["step"], result.at["latent"], result.measured["dead_total"], strict=True
        )
    }
    words = {
        (False, False): "alive",
        (True, True): "dead to the end",
        (True, False): "comes to life",
        (False, True): "dies",
    }
    for latent, fate in zip(result.at["latent"], result.at["fate"], strict=True):
        assert fate == words[ends[0, latent], ends[100, latent]]


def test_gradients_of_the_matrices_grow_with_the_mean() -> None:
    """At a fixed gamma, data scaled by c have a ratio c times as large: exactly, because everything is homogeneous."""
    results = run(kind="gradient", data={"gamma": 5, "signal_scale": [1, 2, 8]}, seeds=2, batch_size=512)
    base = results["signal_scale=1.0"]
    for scale in (2, 8):
        for one, other in zip(
            base.measured["gradient_ratio"][0],
            results[f"signal_scale={float(scale)}"].measured["gradient_ratio"][0],
            strict=True,
        ):
            assert other == pytest.approx(scale * one, rel=1e-4)  # type: ignore[operator]
    assert mean(base, "gradient_ratio") > 3
