"""A user's own module: layers are its blocks' outputs, whatever the layout, and mistakes are named where they are."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saelib.config.files import LocalFiles
from saelib.config.sources import ModuleSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

torch.set_num_threads(1)

CODE = '''
import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    """Adds to the stream, and works in place on what it is given first, as many networks do."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x.mul_(1.5)
        return x + self.drop(torch.tanh(self.linear(x)))


class Text(nn.Module):
    def __init__(self, width=8, depth=3, layout="example token channel", twice=False):
        super().__init__()
        self.embed = nn.Embedding(128, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.layout, self.twice, self.calls = layout, twice, 0

    def forward(self, ids):
        self.calls += 1
        x = self.embed(ids)
        if self.layout == "token example channel":
            x = x.transpose(0, 1).contiguous()
        for block in self.blocks:
            x = block(x)
        return self.blocks[0](x) if self.twice else x


def letters(texts):
    longest = max(map(len, texts))
    ids = torch.tensor([[ord(letter) for letter in text.ljust(longest)] for text in texts])
    keep = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    return {"ids": ids}, keep


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.same = nn.Conv2d(4, 6, 3, padding=1)
        self.coarse = nn.Conv2d(6, 6, 2, stride=2)

    def forward(self, pixels):
        return self.coarse(self.same(self.stem(pixels)))


def pixels(images):
    return {"pixels": torch.from_numpy(images).permute(0, 3, 1, 2) / 255}, None


def right_half(images):
    keep = np.zeros((len(images), *images.shape[1:3]), bool)
    keep[:, :, images.shape[2] // 2 :] = True
    return pixels(images)[0], keep.reshape(len(images), -1)


def ragged(texts):
    inputs, keep = letters(texts)
    return inputs, keep[:, 1:]


def only_inputs(texts):
    return letters(texts)[0]


def integer_keep(texts):
    inputs, keep = letters(texts)
    return inputs, keep.int()


def fails(texts=None):
    raise ValueError("no such\\nluck")


def leaves():
    import sys

    sys.exit(0)


NUMBER = 3
'''


def line(text: str) -> str:
    """Returns the end of messages about this line of the code above."""
    number = 1 + [text in found for found in CODE.splitlines()].index(True)
    return rf"\(.*own_nets\.py, line {number}\)"


TEXTS = ["abc", "hello there", "x"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "own_nets.py").write_text(CODE)
    yield tmp_path / "nets"
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def opened(folder: Path, dtype: str = "float32", device: str = "cpu", **options: Any):
    options = {"factory": "own_nets:Text", "prepare": "own_nets:letters", "hooks": "blocks.{layer}", **options}
    return open_source(ModuleSource(family="module", import_from=LocalFiles(path=folder), **options), device, dtype)


def examples(*contents: Any) -> list[Example]:
    return [Example(str(i), str(i), content) for i, content in enumerate(contents)]


def reference(folder: Path, text: str, depth: int = 3) -> list[np.ndarray]:
    """The stream after each block, computed step by step with the module's own weights."""
    module = sys.modules["own_nets"].Text(depth=depth)
    module.load_state_dict(torch.load(folder / "net.pt", weights_only=True))
    with torch.no_grad():
        x = module.embed(torch.tensor([[ord(letter) for letter in text]]))
        states = [x[0].numpy()]
        for block in module.blocks:
            x = 1.5 * x + torch.tanh(block.linear(1.5 * x))
            states.append(x[0].numpy())
    return states


def save_weights(folder: Path) -> None:
    import importlib

    sys.path.insert(0, str(folder))
    torch.manual_seed(5)
    module = importlib.import_module("own_nets").Text()
    torch.save(module.state_dict(), folder / "net.pt")
    save_file(module.state_dict(), folder / "net.safetensors")


@pytest.mark.parametrize("layout", ["example token channel", "token example channel"])
@pytest.mark.parametrize("weights", ["net.pt", "net.safetensors"])
def test_layers_are_the_outputs_of_the_blocks(folder, layout, weights, device):
    save_weights(folder)
    source = opened(
        folder, device=device, arguments={"layout": layout}, layout=layout, weights=LocalFiles(path=folder / weights)
    )
    acts = source.forward(examples(*TEXTS), range(4))
    assert acts.tokens_per_example == [3, 11, 1]
    assert source.n_layers == 3
    assert source.d_in(0) == source.d_in(3) == 8
    states = [reference(folder, text) for text in TEXTS]
    for layer in range(4):
        assert acts.layers[layer].dtype == np.float32
        expected = np.concatenate([state[layer] for state in states])
        np.testing.assert_allclose(acts.layers[layer], expected, atol=1e-5)
    assert source._module.calls == 1


def test_batches_and_wanted_layers_have_no_effect(folder):
    source = opened(folder)
    together = source.forward(examples(*TEXTS), range(4)).layers
    alone = [source.forward(examples(text), [2]).layers[2] for text in TEXTS]
    np.testing.assert_allclose(np.concatenate(alone), together[2], atol=1e-6)


def test_weights_that_the_factory_draws_are_the_same_in_every_run(folder):
    first = opened(folder).forward(examples("abc"), [3]).layers[3]
    torch.rand(1)
    before = torch.get_rng_state()
    np.testing.assert_array_equal(opened(folder).forward(examples("abc"), [3]).layers[3], first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_narrower_pass_still_gives_float32(folder):
    wide = opened(folder).forward(examples("hello"), [3]).layers[3]
    narrow = opened(folder, "bfloat16").forward(examples("hello"), [3]).layers[3]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.1 * np.abs(wide).max()


def photographs() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3), dtype=np.uint8))


def convolutional(folder: Path, dtype: str = "float32", prepare: str = "own_nets:pixels"):
    options = {"factory": "own_nets:Images", "hooks": ["stem", "same", "coarse"], "layout": "example channel position"}
    return opened(folder, dtype, prepare=prepare, **options)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_positions_of_a_feature_map_are_tokens(folder, dtype, rounding):
    source = convolutional(folder, dtype)
    images = photographs()
    acts = source.forward(examples(*images), [1, 2])
    assert acts.tokens_per_example == [24, 24]
    assert (source.d_in(1), source.d_in(2)) == (4, 6)
    module = convolutional(folder)._module
    with torch.no_grad():
        maps = module.stem(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255)
        maps = module.same(maps).permute(0, 2, 3, 1).numpy()
    for image in range(2):
        for row in range(6):
            for column in range(4):
                token = acts.layers[2][24 * image + 4 * row + column]
                np.testing.assert_allclose(token, maps[image, row, column], atol=rounding)
    entering = source.forward(examples(*images), [0]).layers[0]
    np.testing.assert_allclose(entering.reshape(2, 6, 4, 3), np.stack(images) / 255, atol=rounding)


def test_keep_chooses_positions(folder):
    images = photographs()
    whole = convolutional(folder).forward(examples(*images), [2]).layers[2].reshape(2, 6, 4, 6)
    half = convolutional(folder, prepare="own_nets:right_half").forward(examples(*images), [2])
    assert half.tokens_per_example == [12, 12]
    np.testing.assert_array_equal(half.layers[2].reshape(2, 6, 2, 6), whole[:, :, 2:])


def test_layers_with_unlike_numbers_of_positions_are_models_of_their_own(folder):
    source = convolutional(folder)
    with pytest.raises(UserError, match=r"layers 2 and 3 have 24 and 6 tokens per example; .* model of its own"):
        source.forward(examples(*photographs()), [2, 3])
    assert source.forward(examples(*photographs()), [3]).tokens_per_example == [6, 6]


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_outside_names_the_range(folder, layer):
    with pytest.raises(UserError, match=r"module own_nets:Text: has no layer .* 0 to 3"):
        opened(folder).forward(examples("abc"), [layer])


def test_the_number_of_the_first_block_is_in_the_config(folder):
    shifted = opened(folder, first=1)
    assert shifted.n_layers == 2
    both = opened(folder).forward(examples("abc"), [2, 3]).layers
    np.testing.assert_array_equal(shifted.forward(examples("abc"), [1]).layers[1], both[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "own_net:Text"}, r"no module 'own_net' in .*nets; modules there: own_nets"),
        ({"factory": "own_nets:Test"}, r"no 'Test' there; .*Images, Text"),
        ({"factory": "own_nets:NUMBER"}, "is of type int, and should be a function"),
        ({"factory": "own_nets:letters", "arguments": {"texts": ["a"]}}, "returns a tuple, and should return a torch"),
        ({"factory": "json:loads"}, r"'json' is also the name of .*json/__init__\.py; rename yours"),
        ({"arguments": {"dept": 3}}, r"the factory failed: TypeError: .*'dept'"),
        ({"factory": "own_nets:fails"}, r"the factory failed: ValueError: no such luck " + line("raise ValueError")),
        ({"factory": "own_nets:leaves"}, r"the factory failed: SystemExit: 0 " + line("sys.exit(0)")),
        ({"hooks": "block.{layer}"}, r"no block 'block\.0': Text has embed, blocks"),
        ({"hooks": "blocks.{layer}.lin"}, r"no block 'blocks\.0\.lin': 'blocks\.0' \(Block\) has linear, drop"),
        ({"hooks": "blocks.{layer}", "first": 7}, r"no block 'blocks\.7': 'blocks' \(ModuleList\) has 0, 1, 2"),
    ],
)
def test_what_cannot_be_made_says_why(folder, options, message):
    with pytest.raises(UserError, match=message):
        opened(folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prepare": "own_nets:fails"}, r"prepare 'own_nets:fails' failed: ValueError: .*" + line("raise ValueError")),
        ({"prepare": "own_nets:only_inputs"}, r"returns a dict of str, and should return \(keyword arguments, keep\)"),
        (
            {"prepare": "own_nets:integer_keep"},
            r"returns as keep an array \[3, 11\] of torch.int32, and should return bool",
        ),
        ({"prepare": "own_nets:ragged"}, r"has 11 tokens per example in the layout .* but keep has 10"),
        ({"prepare": "own_nets:pixels"}, r"prepare 'own_nets:pixels' failed: TypeError"),
        ({"layout": "token example channel"}, r"\[3, 11, 8\] of torch.float32 for 3 examples, not in the layout"),
        ({"layout": "example channel position"}, r"has 8 tokens per example .* but keep has 11"),
        ({"hooks": ["blocks"]}, r"layer 1 \('blocks'\) did not run in the forward pass"),
        (
            {"arguments": {"twice": True}},
            r"layer 1 \('blocks\.0'\): its block runs more than once in a pass \(2 times\)",
        ),
        ({"hooks": ["blocks.1", "blocks.0"]}, r"layer 2 \('blocks\.0'\) runs before layer 1; name the blocks in the"),
        ({"hooks": ["blocks.0", "blocks.1", "blocks.0"]}, r"layer 3 \('blocks\.0'\) has the same module as layer 1"),
    ],
)
def test_what_does_not_fit_says_what_was_found(folder, options, message):
    source = opened(folder, **options)
    with pytest.raises(UserError, match=message):
        source.forward(examples(*TEXTS), [1])


def test_an_error_in_the_forward_pass_names_the_line_and_logs_its_cause(folder, caplog):
    caplog.set_level(logging.DEBUG, "saelib")
    with pytest.raises(UserError, match=r"forward pass failed: IndexError: .*" + line("x = self.embed(ids)")) as caught:
        opened(folder).forward(examples("\N{GREEK SMALL LETTER ALPHA}"), [1])
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "Traceback" in caplog.text


def test_code_that_does_not_parse_or_import_names_the_line(folder):
    (folder / "own_broken.py").write_text("x = 1\ndef (:\n")
    (folder / "own_missing.py").write_text("\nimport own_nothing\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*own_broken\.py, line 2\)"):
        opened(folder, factory="own_broken:x")
    with pytest.raises(UserError, match=r"No module named 'own_nothing' \(.*own_missing\.py, line 2\)"):
        opened(folder, factory="own_missing:x")


def test_what_prepare_imports_when_it_is_called_is_found(folder):
    (folder / "own_late.py").write_text("from own_nets import letters\n")
    late = "\n\ndef late(texts):\n    from own_late import letters\n    return letters(texts)\n"
    (folder / "own_nets.py").write_text(CODE + late)
    assert opened(folder, prepare="own_nets:late").forward(examples("abc"), [1]).tokens_per_example == [3]


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_weights_that_do_not_fit_or_cannot_be_read(folder, name):
    save_weights(folder)
    weights = LocalFiles(path=folder / name)
    with pytest.raises(UserError, match=r"net\..*Missing key\(s\).*blocks\.3"):
        opened(folder, weights=weights, arguments={"depth": 4})
    with pytest.raises(UserError, match=r"Unexpected key\(s\).*blocks\.2"):
        opened(folder, weights=weights, arguments={"depth": 2})
    with pytest.raises(UserError, match="size mismatch"):
        opened(folder, weights=weights, arguments={"width": 4})
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not readable as weights"):
        opened(folder, weights=weights)
    (folder / name).unlink()
    with pytest.raises(UserError, match="no such file"):
        opened(folder, weights=weights)


def test_objects_in_weights_are_not_built(folder, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"embed.weight": Evil()}, folder / "net.pt")
    with pytest.raises(UserError, match=r"net\.pt: holds objects, which may run code; save only the state_dict"):
        opened(folder, weights=LocalFiles(path=folder / "net.pt"))
    assert not marker.exists()
    torch.save({"model": {"embed.weight": torch.zeros(2)}, "epoch": 3}, folder / "net.pt")
    with pytest.raises(UserError, match="holds a dict of str, str, and should hold a state_dict: tensors by name"):
        opened(folder, weights=LocalFiles(path=folder / "net.pt"))


def test_two_folders_with_modules_of_one_name_are_not_mixed_up(folder, tmp_path):
    opened(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "own_nets.py").write_text(CODE)
    with pytest.raises(UserError, match=r"'own_nets' is also the name of .*nets/own_nets\.py; rename yours"):
        opened(tmp_path / "other")
