"""Monosemanticity in a suite: two models read the same texts, and one judges the latents of the other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from saelib import compute_stats
from saelib.config.load import check_config
from saelib.evaluation.layer_result import load_layer
from saelib.evaluation.seen import Seen, read_seen
from saelib.evaluation.stage import run
from saelib.pipeline.plan import Job
from saelib.pipeline.targets import wanted_targets
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, latent_by_latent, save_sae
from saelib.sae.model import SAE
from saelib.stats import save_stats

WIDTH, D_SAE = 16, 24
WORDS = ["[PAD]", *"abcdefghijkl"]


def save_model(folder: Path, seed: int) -> BertModel:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    model = BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).eval()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return model


def entry(folder: Path) -> dict[str, Any]:
    source = {"family": "transformers", "weights": {"path": str(folder)}, "max_length": 32, "batch_size": 4}
    described = {"domain": "letters", "license": "none", "notes": "made up"}
    return {"source": source, "dataset": "texts", "layers": [1], "representative_layer": 1, **described}


def save_random_sae(file: Path) -> None:
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, WIDTH), dim=1)
    zeros = {"b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(WIDTH)}
    sae = SAE("topk", latent_by_latent({"W_enc": W_dec.T.clone(), "W_dec": W_dec, **zeros}), 3)
    file.parent.mkdir(parents=True)
    save_sae(SavedSAE(sae, Preprocessing(np.zeros(WIDTH)), {}), file)


def by_definition(acts: NDArray[np.floating], embeddings: NDArray[np.floating]) -> float:
    """Mean cosine over all pairs of examples, weighted by activations [examples] scaled to [0, 1]."""
    weights = (acts - acts.min()) / np.ptp(acts)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(acts), 1)
    pairs = weights[first] * weights[second]
    return float((pairs * (units @ units.T)[first, second]).sum() / pairs.sum())


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Seen, BertModel, dict[str, Any]]:
    """The pass over the texts, the model that judges, and the figures of the SAE."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "read", 0)
    judge = save_model(tmp_path / "judge", 1)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[1:], rng.integers(3, 12))) for _ in range(40)]
    Path("texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = check_config(
        {
            "results": "results",
            "heldout_fraction": 0.5,
            "train": {"d_sae": D_SAE, "k": 3, "variants": {"baseline": {}}},
            "datasets": {"texts": {"kind": "text", "files": [{"path": "texts.jsonl"}]}},
            "models": {name: entry(tmp_path / name) for name in ("read", "judge")},
            "evaluation": {"baselines": ["neurons"], "embeddings": {"read": {"model": "judge", "layer": 1}}},
        },
        "test",
    )
    targets = {one.stage: one for one in wanted_targets(config) if one.model == "read"}
    statistics = compute_stats(rng.standard_normal((256, WIDTH)).astype(np.float32))
    save_stats(statistics, config.stats_path("read", 1), targets["stats"].key)
    save_random_sae(config.train_path("read", 1, "baseline") / "weights.safetensors")
    run(config, Job("evaluate", "read/layers_1-1", (targets["evaluate"],), ()))
    folder = config.evaluation_path("read", 1)
    _, saes = load_layer(folder / "evaluation.json")
    return read_seen(folder), judge, {one.sae: one.monosemanticity for one in saes}


def test_scores_are_those_of_the_definition_with_the_other_models_embeddings(
    evaluated: tuple[Seen, BertModel, dict[str, Any]],
) -> None:
    seen, judge, figures = evaluated
    embeddings = []
    for text in seen.examples["text"]:
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            embeddings.append(judge(input_ids=ids).last_hidden_state[0].mean(0).numpy())
    counts = seen.examples["tokens"].to_list()
    assert counts == [len(text.split()) for text in seen.examples["text"]]
    parts = np.split(seen.codes("baseline-seed0").toarray(), np.cumsum(counts)[:-1])
    acts = np.stack([part.mean(axis=0) for part in parts])
    found = pl.read_parquet(seen.folder / "baseline-seed0" / "latents.parquet")["monosemanticity"].to_numpy()
    fires_twice = (acts > 0).sum(axis=0) >= 2
    assert fires_twice.sum() > D_SAE / 2
    for latent in np.flatnonzero(fires_twice & (acts.min(axis=0) == 0)):
        assert found[latent] == pytest.approx(by_definition(acts[:, latent], np.stack(embeddings)), abs=1e-4)
    mine = figures["baseline-seed0"]
    assert mine.mean == pytest.approx(np.nanmean(found))
    units = np.stack(embeddings) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert mine.any_pair == pytest.approx((units @ units.T)[np.triu_indices(len(units), 1)].mean(), abs=1e-4)
    assert figures["neurons"] is not None
