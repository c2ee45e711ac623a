"""Sites in a suite: residual streams keep their paths, and other sites have results of their own from the same pass."""

import pytest

from saelib.config.load import check_config
from saelib.config.sites import LayerSite, names
from saelib.errors import UserError
from saelib.pipeline.plan import load_job, make_plan
from saelib.pipeline.redo import chosen_targets
from saelib.pipeline.targets import wanted_targets
from saelib.store.layout import StoreMetadata, metadata_of

SITES = ["residual", "mlp_out"]


def suite(folder, family="transformers", **model):
    """A suite whose model is never loaded."""
    source = {"family": family, "weights": {"path": str(folder)}}
    entry = {"domain": "none", "source": source, "dataset": "docs", "layers": [1, 2, 3], "representative_layer": 2}
    content = {
        "results": str(folder / "results"),
        "datasets": {"docs": {"kind": "python_docs"}},
        "models": {"m": entry | model},
        "train": {"variants": {"baseline": {}}},
    }
    return check_config(content, "suite")


def test_residual_streams_keep_their_paths_and_keys(tmp_path):
    plain = {target.path: target.key for target in wanted_targets(suite(tmp_path)) if target.model}
    both = {target.path: target.key for target in wanted_targets(suite(tmp_path, sites=SITES)) if target.model}
    assert plain.items() <= both.items()
    added = sorted(path.removeprefix(f"{tmp_path}/results/") for path in both.keys() - plain.keys())
    layers = [f"layer_{layer}_mlp_out" for layer in (1, 2, 3)]
    expected = [f"{stage}/m/{layer}.json" for stage in ("init_death", "stats") for layer in layers]
    expected += [f"extract/m/{layer}.zarr" for layer in layers] + ["train/m/layer_2_mlp_out/baseline/sweep.json"]
    assert added == sorted(expected)


def test_one_job_extracts_all_sites_and_each_site_has_its_own_blocks(tmp_path):
    plan = make_plan(suite(tmp_path, sites=SITES))
    assert [name for name in plan.jobs if not name.startswith(("theory", "report"))] == [
        "extract/m/layers_1-3",
        "stats/m/layers_1-3",
        "stats/m/layers_1-3_mlp_out",
        "init_death/m/layers_1-3",
        "init_death/m/layers_1-3_mlp_out",
        "train/m/layer_2/baseline",
        "train/m/layer_2_mlp_out/baseline",
    ]
    assert plan.jobs["train/m/layer_2_mlp_out/baseline"].after == ("extract/m/layers_1-3", "stats/m/layers_1-3_mlp_out")
    plan.save(tmp_path / "plan.json")
    _, job = load_job(tmp_path / "plan.json", "extract/m/layers_1-3")
    assert [target.layer for target in job.targets] == [1, 2, 3, *(LayerSite(i, "mlp_out") for i in (1, 2, 3))]
    assert str(job.targets[-1]) == "extract of m layer 3 mlp_out"


def test_layers_and_sites_are_named_in_short():
    layers = [1, 2, 3, 7, LayerSite(2, "attention_out"), LayerSite(1, "attention_out")]
    assert names(layers) == "1-3, 7, 1-2 attention_out"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"family": "evo", "sites": SITES},
            "the family 'evo' has no mlp_out, only residual; families with other sites",
        ),
        ({"layers": [0, 1, 2], "sites": SITES}, "layer 0 is the embeddings, which have no mlp_out"),
        ({"sites": ["mlp_out", "mlp_out"]}, "sites mlp_out, mlp_out name one twice"),
        ({"sites": ["mlp"]}, "models.m.*sites"),
        ({"sites": []}, "models.m.*sites"),
    ],
)
def test_sites_that_there_are_not_are_refused(model, message, tmp_path):
    with pytest.raises(UserError, match=message):
        suite(tmp_path, **model)


def test_redo_asks_for_a_site_by_name(tmp_path):
    with pytest.raises(UserError, match="stage 'stats' of m: no site attention_out; there are: residual, mlp_out"):
        chosen_targets(suite(tmp_path, sites=SITES), "stats", sites=["attention_out"])


@pytest.mark.parametrize("site", ["residual", "mlp_out"])
def test_a_stores_attributes_name_its_site_unless_it_is_the_stream(site):
    numbers = {"layer": 5, "d_in": 8, "train_tokens": 4, "heldout_tokens": 2, "chunk_rows": 4, "index_rows": 4}
    texts = {"dtypes": {}, "reasons": {}, "examples": {}, "dataset": "docs", "versions": {}}
    metadata = StoreMetadata(key="k", model="m", **numbers, **texts, site=site)
    attributes = metadata.to_attributes()
    assert ("site" in attributes) == (site != "residual")
    assert metadata_of(attributes, "store") == metadata
    assert metadata.name == ("m layer 5" if site == "residual" else "m layer 5 mlp_out")
