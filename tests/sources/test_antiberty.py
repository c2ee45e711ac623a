"""AntiBERTy, on a small checkpoint in the package's own format, against the recipe of the package's `embed`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from saelib.config.files import LocalFiles
from saelib.config.sites import LayerSite
from saelib.config.sources import AntibertySource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.antiberty import CHECKPOINT

torch.set_num_threads(2)

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]


@pytest.fixture
def package(tmp_path):
    """`trained_models` as in the wheel: weights prefixed `bert.`, heads beside them, `position_ids` among them."""
    torch.manual_seed(0)
    folder = tmp_path / "trained_models"
    (folder / CHECKPOINT).mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    config = BertConfig(
        vocab_size=25, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    model = BertForPreTraining(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    extra = {"bert.embeddings.position_ids": torch.arange(40)[None], "cls.species.weight": torch.zeros(6, 32)}
    torch.save(model.state_dict() | extra, folder / CHECKPOINT / "pytorch_model.bin")
    plain = {**config.to_dict(), "architectures": ["AntiBERTy"], "transformers_version": "4.5.1"}
    (folder / CHECKPOINT / "config.json").write_text(json.dumps(plain))
    return folder, model.eval()


def opened(folder: Path, device: str = "cpu", **options):
    options = {"max_length": 40, **options}
    return open_source(AntibertySource(family="antiberty", weights=LocalFiles(path=folder), **options), device)


def examples(*sequences: str) -> list[Example]:
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


def test_layers_are_the_models_hidden_states_at_the_residues(package, device):
    folder, model = package
    sequences = ["MKVLAAGXW", "ACDEF", "wyvtsrqpnmlkihgfedca"]
    acts = opened(folder, device=device).forward(examples(*sequences), range(4))
    assert acts.tokens_per_example == [9, 5, 20]
    start = 0
    for sequence in sequences:
        words = ["[CLS]", *(letter if letter in VOCABULARY else "[UNK]" for letter in sequence.upper()), "[SEP]"]
        ids = torch.tensor([[VOCABULARY.index(word) for word in words]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        rows = slice(start, start + len(sequence))
        for layer in range(4):
            np.testing.assert_allclose(acts.layers[layer][rows], states[layer][0, 1:-1].numpy(), atol=1e-5)
        start = rows.stop


@pytest.mark.parametrize("layer", [1, 3])
def test_attention_and_mlp_are_what_the_block_norms_the_sums_of(package, layer):
    folder, model = package
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    acts = opened(folder).forward(examples("MKVLAAGXW", "ACDEF"), [layer - 1, layer, *sites])
    before, after, attention, mlp = (torch.from_numpy(values) for values in acts.layers.values())
    block = model.bert.encoder.layer[layer - 1]
    with torch.no_grad():
        middle = block.attention.output.LayerNorm(before + attention)
        torch.testing.assert_close(block.output.LayerNorm(middle + mlp), after, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(block.output.dense(block.intermediate(middle)), mlp, atol=1e-5, rtol=1e-5)


def test_special_tokens_on_request_and_long_sequences_cut(package):
    folder, _ = package
    acts = opened(folder, keep_special_tokens=True, max_length=12).forward(examples("A" * 30), [3])
    assert acts.tokens_per_example == [12]
    with pytest.raises(UserError, match="at most 40 tokens"):
        opened(folder, max_length=41)


def test_the_model_names_its_range(package):
    source = opened(package[0])
    assert (source.n_layers, source.d_in(3)) == (3, 32)
    with pytest.raises(UserError, match="AntiBERTy: has no layer 4; its layers are 0 to 3"):
        source.forward(examples("MKV"), [4])


def test_a_folder_of_something_else_is_refused(package, tmp_path):
    folder, model = package
    weights = folder / CHECKPOINT / "pytorch_model.bin"
    torch.save(model.bert.state_dict(), weights)  # without the prefix: nothing would be loaded
    with pytest.raises(UserError, match="not an AntiBERTy checkpoint: lacks"):
        opened(folder)
    weights.write_bytes(b"garbage")
    with pytest.raises(UserError, match="not an AntiBERTy checkpoint"):
        opened(folder)
    weights.unlink()
    with pytest.raises(UserError, match="not an AntiBERTy checkpoint"):
        opened(folder)
    with pytest.raises(UserError, match="not an AntiBERTy checkpoint"):
        opened(tmp_path)
