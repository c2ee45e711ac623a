"""Code that comes with a checkpoint: never run unasked, pinned when asked for, and built with all its buffers right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel

from saelib.config.sources import TransformersSource
from saelib.errors import UserError

WIDTH = 8
CODE = """
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

Path("MARKER").touch()


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, vocab_size=19, hidden_size=8, num_hidden_layers=2, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        super().__init__(**kwargs)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.register_buffer("scale", torch.arange(1.0, 1 + config.hidden_size), persistent=False)

    def forward(self, stream):
        return stream + torch.tanh(self.linear(stream)) * self.scale


class Base(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "toy"

    def _init_weights(self, module):
        pass


class ToyModel(Base):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.INITIALIZE()

    def forward(self, input_ids, attention_mask=None):
        stream = self.embed(input_ids)
        for block in self.layers:
            stream = block(stream)
        return (stream,)


class ToyForCausalLM(Base):
    def __init__(self, config):
        super().__init__(config)
        self.toy = ToyModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.INITIALIZE()

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.toy(input_ids)[0])
"""


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (19, WIDTH)}
    for block in range(2):
        shapes |= {f"layers.{block}.linear.weight": (WIDTH, WIDTH), f"layers.{block}.linear.bias": (WIDTH,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def expected(ids: list[int], layer: int) -> np.ndarray:
    """The model again, in float64, from the weights."""
    table = {name: value.double().numpy() for name, value in weights().items()}
    stream = table["embed.weight"][ids]
    for block in range(layer):
        inner = stream @ table[f"layers.{block}.linear.weight"].T + table[f"layers.{block}.linear.bias"]
        stream = stream + np.tanh(inner) * np.arange(1, 1 + WIDTH)
    return stream


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that exists once the code has run. The code holds its path, so that no test finds it run by another."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "has_run"


@pytest.fixture
def save(tmp_path, marker, save_tokenizer):
    """`head`: the only class is one with a head. `prefix`: of the stored names. `old`: before transformers 5."""

    def _save(*, head: bool = False, prefix: str = "", old: bool = False, kind: str = "toy") -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        code = CODE.replace("INITIALIZE", "init_weights" if old else "post_init").replace("MARKER", str(marker))
        (folder / "modeling_toy.py").write_text(code)
        auto = (
            {"AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"} if head else {"AutoModel": "modeling_toy.ToyModel"}
        )
        config = {"model_type": kind, "auto_map": {"AutoConfig": "modeling_toy.ToyConfig", **auto}}
        (folder / "config.json").write_text(json.dumps(config))
        stored = {prefix + name: value for name, value in weights().items()}
        save_file(stored | {"head.weight": torch.zeros(19, WIDTH)}, folder / "model.safetensors", {"format": "pt"})
        save_tokenizer(folder)
        return folder

    return _save


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("prefix", ["", "toy.", "encoder.toy."])
@pytest.mark.parametrize("old", [False, True])
def test_layers_are_what_the_code_means(head, prefix, old, save, marker, open_text, examples):
    source = open_text(save(head=head, prefix=prefix, old=old), trust_remote_code=True)
    assert marker.exists()
    acts = source.forward(examples("the cat", "two dogs run"), range(3))
    assert acts.tokens_per_example == [2, 3]
    ids = [source._tokenize("the cat").own, source._tokenize("two dogs run").own]
    for layer in range(3):
        np.testing.assert_allclose(
            acts.layers[layer], np.concatenate([expected(one, layer) for one in ids]), rtol=1e-5, atol=1e-5
        )


def test_a_narrower_type_narrows_weights_and_leaves_buffers_to_the_code(save, marker, open_text):
    model = open_text(save(), "bfloat16", trust_remote_code=True)._model
    assert model.layers[0].linear.weight.dtype == torch.bfloat16
    assert model.layers[0].scale.tolist() == list(range(1, 9))


@pytest.mark.parametrize("kind", ["toy", "gpt2"])
def test_no_code_runs_unasked(kind, save, marker, open_text):
    folder = save(kind=kind)
    with pytest.raises(UserError, match=r"has not run the checkpoint's own code, cannot load|lacks"):
        open_text(folder)
    assert not marker.exists()


def test_the_tokenizers_code_does_not_run_unasked_either(save, marker, open_text):
    folder = save()
    llama = LlamaConfig(vocab_size=19, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    LlamaModel(llama).save_pretrained(folder)  # its code is transformers' own
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["modeling_toy.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"AutoTokenizer cannot load .* contains custom code"):
        open_text(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        ("config.json", {"AutoModel": "someone/else--modeling_toy.ToyModel"}),
        ("config.json", {"AutoModel": "modeling_toy.ToyModel", "AutoConfig": "someone/else--modeling_toy.ToyConfig"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "someone/else--tokens.Own"]}),
    ],
)
def test_code_of_another_repository_is_refused(file, auto_map, save, marker, open_text):
    folder = save()
    settings = json.loads((folder / file).read_text()) | {"auto_map": auto_map}
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"{file} names code of another repository \(.*someone/else--"):
        open_text(folder, trust_remote_code=True)
    assert not marker.exists()


def test_missing_weights_are_refused(save, marker, open_text):
    folder = save()
    save_file({"embed.weight": weights()["embed.weight"]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 4 weights of ToyModel"):
        open_text(folder, trust_remote_code=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model.bin"):
        open_text(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("import no_such_package", r"ImportError: .*pip install no_such_package"),
        ("raise ValueError('no luck')", r"ValueError: no luck \(.*modeling_toy\.py, line 1\)"),
        ("1 +", "SyntaxError: invalid syntax"),
    ],
)
def test_code_that_fails_is_one_clear_message(mistake, message, save, marker, open_text):
    folder = save()
    (folder / "modeling_toy.py").write_text(mistake + "\n" + CODE)
    with pytest.raises(UserError, match="the checkpoint's own code: " + message) as caught:
        open_text(folder, trust_remote_code=True)
    assert "\n" not in str(caught.value)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEEL = {"pypi": "model==1.0", "wheel": "model-1.0-py3-none-any.whl", "sha256": "0" * 64}


@pytest.mark.parametrize("weights", [{"path": "/models/m"}, WHEEL, {"hf": "a/b", "revision": COMMIT}])
def test_code_may_come_from_where_it_cannot_change(weights):
    source = {"family": "transformers", "weights": weights, "trust_remote_code": True}
    assert TransformersSource.model_validate(source).trust_remote_code


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        ({"hf": "a/b"}, {}, "revision.* to be a commit .*'main'"),
        ({"hf": "a/b", "revision": "v1.0"}, {}, "what 'v1.0' points to may change"),
        ({"hf": "a/b", "revision": COMMIT[:12]}, {}, "40 hexadecimal digits"),
        ({"hf": "a/b", "revision": COMMIT + "\n"}, {}, "40 hexadecimal digits"),
        ({"url": "https://example.org/m.zip"}, {}, "not from `url`"),
        ({"path": "/models/m"}, {"gguf_file": "m.gguf"}, "cannot be combined with gguf_file or device_map"),
        ({"path": "/models/m"}, {"device_map": "auto"}, "cannot be combined with gguf_file or device_map"),
    ],
)
def test_code_that_may_change_is_refused_by_the_config(weights, more, message):
    source = {"family": "transformers", "weights": weights, **more}
    assert not TransformersSource.model_validate(source).trust_remote_code
    with pytest.raises(ValueError, match=message):
        TransformersSource.model_validate(source | {"trust_remote_code": True})
