"""The loss with an SAE in place, against transformers' own loss, closed forms and invariances of tiny models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saelib.config.files import LocalFiles
from saelib.config.sources import TransformersSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.evaluation.ce_loss import ce_losses, why_unreliable
from saelib.evaluation.heads import open_predictor
from saelib.evaluation.layer_result import CELossFigures

WORDS = ["[PAD]", "[MASK]", *"abcdefghijkl"]
SMALL = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = ["a b c d e f g h", "b d f h j l", "c c a l k j i h g f"]
EXAMPLES = [Example(text, text, text) for text in TEXTS]
LAST = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Any]]:
    torch.manual_seed(0)
    saved = {}
    for kind, model in (
        ("causal", LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48))),
        ("masked", BertForMaskedLM(BertConfig(**SMALL, intermediate_size=48))),
    ):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(kind)
        model.eval().save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]").save_pretrained(
            folder
        )
        saved[kind] = folder, model
    return saved


def opened(folder: Path):
    source = TransformersSource(family="transformers", weights=LocalFiles(path=folder), max_length=32)
    return open_predictor(source, "cpu", "float32")


def losses(folder: Path, layer: int, tokens: int = 10**6, batch_size: int = 2, **saes):
    return ce_losses(opened(folder), iter(EXAMPLES), layer, saes, tokens, batch_size)


def same(acts):
    return acts


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("layer", [1, LAST])
def test_the_score_is_1_for_the_activations_themselves_and_0_for_zeros(folders, kind, layer):
    found = losses(folders[kind][0], layer, same=same, zeros=np.zeros_like)
    assert found["same"].ce_loss_with_sae == pytest.approx(found["same"].ce_loss_without_sae, rel=1e-6)
    assert found["same"].ce_loss_score == pytest.approx(1)
    assert found["zeros"].ce_loss_with_sae == pytest.approx(found["zeros"].ce_loss_with_ablation, rel=1e-6)
    assert found["zeros"].ce_loss_score == pytest.approx(0, abs=1e-6)


def test_the_loss_without_an_sae_is_that_of_transformers(folders):
    folder, model = folders["causal"]
    found = losses(folder, 1, same=same)["same"]
    total, predicted = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        predicted += ids.shape[1] - 1
    assert found.tokens == predicted
    assert found.ce_loss_without_sae == pytest.approx(total / predicted, rel=1e-5)


def test_a_reconstruction_in_the_middle_is_that_of_a_pass_by_hand(folders):
    folder, model = folders["causal"]
    found = losses(folder, 1, batch_size=1, doubled=lambda acts: 2 * acts)["doubled"]
    total, predicted = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        places = torch.arange(ids.shape[1])[None]
        with torch.no_grad():
            rotary = model.model.rotary_emb(model.model.embed_tokens(ids), places)
            causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None]
            options = {"attention_mask": causal, "position_ids": places, "position_embeddings": rotary}
            x = 2 * model.model.layers[0](model.model.embed_tokens(ids), **options)
            logits = model.lm_head(model.model.norm(model.model.layers[1](x, **options)))
            total += torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
        predicted += ids.shape[1] - 1
    assert found.ce_loss_with_sae == pytest.approx(total / predicted, rel=1e-5)


def test_zeros_after_the_last_block_predict_nothing(folders):
    """A norm without bias turns zeros into zeros, and all words are equally likely."""
    found = losses(folders["causal"][0], LAST, same=same)["same"]
    assert found.ce_loss_with_ablation == pytest.approx(math.log(len(WORDS)), rel=1e-5)


def test_a_scale_after_the_last_block_costs_nothing(folders):
    """The final RMSNorm divides it out."""
    found = losses(folders["causal"][0], LAST, larger=lambda acts: 3 * acts)["larger"]
    assert found.ce_loss_score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("own", "zeros", "reliable"), [(3.14, 3.21, False), (3.21, 3.14, False), (2.8, 3.2, True), (0.17, 3.09, True)]
)
def test_a_model_that_zeros_hardly_harm_is_no_judge(own: float, zeros: float, reliable: bool):
    assert (why_unreliable(CELossFigures(700, zeros, 3.0, own, 0.5)) is None) == reliable


def test_an_untrained_model_is_no_judge(folders):
    found = losses(folders["causal"][0], LAST, same=same)["same"]
    assert found.ce_loss_without_sae > 0.9 * math.log(len(WORDS))  # it knows no more than zeros do
    assert "hardly better" in (why_unreliable(found) or "")


def test_masked_tokens_are_predicted_from_the_others(folders):
    folder, model = folders["masked"]
    found = losses(folder, 1, batch_size=1, same=same)["same"]
    rng = np.random.default_rng(0)
    total, predicted = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        masked = torch.from_numpy(rng.random(tuple(ids.shape)) < 0.15)
        if not masked.any():
            continue
        with torch.no_grad():
            logits = model(input_ids=ids.masked_fill(masked, WORDS.index("[MASK]"))).logits
        total += torch.nn.functional.cross_entropy(logits[masked], ids[masked], reduction="sum").item()
        predicted += int(masked.sum())
    assert found.tokens == predicted > 0
    assert found.ce_loss_without_sae == pytest.approx(total / predicted, rel=1e-5)


def test_the_pass_stops_at_the_wanted_tokens(folders):
    assert losses(folders["causal"][0], 1, tokens=5, batch_size=1, same=same)["same"].tokens == 7


def test_models_without_a_head_are_refused(folders, tmp_path):
    from transformers import BertModel

    BertModel(BertConfig(**SMALL, intermediate_size=48)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="predicts no tokens"):
        opened(tmp_path)
    with pytest.raises(UserError, match="layer 0: the loss is measured"):
        losses(folders["causal"][0], 0, same=same)
