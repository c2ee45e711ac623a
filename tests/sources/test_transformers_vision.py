"""Vision transformers from small checkpoints as published: patches in, patches out, nothing resized."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from saelib.config.files import LocalFiles
from saelib.config.sources import TransformersVisionSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

PATCH = 4
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": PATCH,
}  # fmt: skip
REGISTERS = {**SMALL, "num_register_tokens": 4}
# Config class, its arguments, special tokens, and where transformers keeps the norm after the last block.
MODELS = {
    "dinov2": ("Dinov2Config", SMALL, 1, "layernorm"),
    "dinov2_giant": ("Dinov2Config", {**SMALL, "use_swiglu_ffn": True}, 1, "layernorm"),
    "dinov2_registers": ("Dinov2WithRegistersConfig", REGISTERS, 5, "layernorm"),
    "dinov3": ("DINOv3ViTConfig", REGISTERS, 5, "norm"),
    "dinov3_7b": (
        "DINOv3ViTConfig",
        {**REGISTERS, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
        5,
        "norm",
    ),
    "vit": ("ViTConfig", SMALL, 1, "layernorm"),
    "deit": ("DeiTConfig", SMALL, 2, "layernorm"),
    "beit": ("BeitConfig", {**SMALL, "use_relative_position_bias": True}, 1, None),
    "ijepa": ("IJepaConfig", SMALL, 0, "layernorm"),
    "siglip": ("SiglipVisionConfig", SMALL, 0, "post_layernorm"),
    "clip": ("CLIPVisionConfig", SMALL, 1, None),
}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
PROCESSOR = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_processor_type": "BitImageProcessor",
    "image_std": STD, "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": 256},
}  # fmt: skip

SAVED: dict[Path, Any] = {}
"""The models behind the checkpoints: what they say does not depend on any loading."""


@pytest.fixture(scope="module")
def save(randomize):
    def _save(folder: Path, kind: str, arguments: dict) -> Path:
        torch.manual_seed(0)
        SAVED[folder] = randomize(AutoModel.from_config(getattr(transformers, kind)(**arguments)))
        SAVED[folder].save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        return folder

    return _save


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, save):
    return {name: save(tmp_path_factory.mktemp(name), *MODELS[name][:2]) for name in MODELS}


def opened(folder: Path, dtype: str = "float32", device: str = "cpu", **options):
    weights = LocalFiles(path=folder)
    return open_source(
        TransformersVisionSource(family="transformers_vision", weights=weights, **options), device, dtype
    )


def pictures(count: int, height: int, width: int | None = None) -> np.ndarray:
    shape = (count, height, width or height, 3)
    return np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)


def examples(pixels: np.ndarray) -> list[Example]:
    return [Example(str(i), str(i), one) for i, one in enumerate(pixels)]


def reference(folder: Path, pixels: np.ndarray, mean=MEAN, std=STD):
    """Hidden states and last hidden state by transformers, from pixels normalized in float64; and the model."""
    model = SAVED[folder]
    values = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    batch = torch.from_numpy(values.transpose(0, 3, 1, 2)).float()
    # Families that fit their position embeddings to the image only when asked; at their own size there is no need.
    ask = {"interpolate_pos_encoding": True} if "dino" not in model.config.model_type and pixels.shape[1] != 16 else {}
    with torch.no_grad():
        out = model(pixel_values=batch, output_hidden_states=True, **ask)
    return [state.numpy() for state in out.hidden_states], out.last_hidden_state.numpy(), model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(16, 16), (24, 24)])
def test_layers_are_the_models_own_hidden_states_at_the_patches(checkpoints, name, size, device):
    check_layers(checkpoints[name], name, size, device)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "vit"])
def test_images_need_not_be_square(checkpoints, name):
    check_layers(checkpoints[name], name, (24, 16))


def check_layers(folder: Path, name: str, size: tuple[int, int], device: str = "cpu") -> None:
    pixels = pictures(2, *size)
    states, last, model = reference(folder, pixels)
    source = opened(folder, device=device)
    assert (source.n_layers, source.d_in(3)) == (3, 32)
    acts = source.forward(examples(pixels), range(4))
    special, patches = MODELS[name][2], size[0] // PATCH * (size[1] // PATCH)
    assert acts.tokens_per_example == [patches, patches]
    for layer in range(3):
        expected = states[layer][:, special:].reshape(-1, 32)
        np.testing.assert_allclose(acts.layers[layer], expected, rtol=1e-4, atol=5e-5)
    norm = model.get_submodule(MODELS[name][3]) if MODELS[name][3] else torch.nn.Identity()
    with torch.no_grad():
        normed = norm(torch.from_numpy(acts.layers[3])).numpy()
    np.testing.assert_allclose(normed, last[:, special:].reshape(-1, 32), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "dinov3_7b", "vit", "ijepa"])
def test_special_tokens_on_request_stand_before_the_patches(checkpoints, name):
    pixels, special = pictures(3, 16), MODELS[name][2]
    kept = opened(checkpoints[name], keep_special_tokens=True).forward(examples(pixels), [2])
    dropped = opened(checkpoints[name]).forward(examples(pixels), [2])
    assert kept.tokens_per_example == [16 + special] * 3
    values = kept.layers[2].reshape(3, 16 + special, 32)
    np.testing.assert_array_equal(values[:, special:].reshape(-1, 32), dropped.layers[2])
    np.testing.assert_allclose(values, reference(checkpoints[name], pixels)[0][2], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "vit"])
def test_all_layers_come_from_one_pass_and_batches_do_not_matter(checkpoints, name, monkeypatch):
    pixels = pictures(3, 16)
    source = opened(checkpoints[name])
    calls = []
    source._model.register_forward_pre_hook(lambda *args: calls.append(1))
    together = source.forward(examples(pixels), [0, 1, 3])
    assert len(calls) == 1
    for i in range(3):
        alone = source.forward(examples(pixels[i : i + 1]), [0, 1, 3])
        for layer in (0, 1, 3):
            np.testing.assert_allclose(together.layers[layer][16 * i : 16 * i + 16], alone.layers[layer], atol=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_pass_is_narrower_and_still_gives_float32(checkpoints, name):
    wide = opened(checkpoints[name]).forward(examples(pictures(1, 16)), [3]).layers[3]
    narrow = opened(checkpoints[name], "bfloat16").forward(examples(pictures(1, 16)), [3]).layers[3]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.1 * np.abs(wide).max()


def test_parts_that_lie_elsewhere_are_brought_when_needed(checkpoints, monkeypatch):
    """Imitates a machine whose GPUs have no room for the blocks, which accelerate then reads from disk in each pass."""
    pixels = examples(pictures(2, 16))
    expected = opened(checkpoints["dinov2"]).forward(pixels, [3]).layers[3]
    places = {"embeddings": "cpu", "encoder": "disk", "layernorm": "cpu"}
    monkeypatch.setattr("transformers.integrations.accelerate.infer_auto_device_map", lambda *args, **kwargs: places)
    source = opened(checkpoints["dinov2"], device_map="auto")
    assert {parameter.device.type for parameter in source._model.parameters()} == {"cpu", "meta"}
    np.testing.assert_array_equal(source.forward(pixels, [3]).layers[3], expected)


@pytest.mark.parametrize(
    ("processor", "mean", "std", "scale"),
    [
        (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1),
        ({"feature_extractor_type": "ViTFeatureExtractor", "image_mean": MEAN, "image_std": STD}, MEAN, STD, 1),
        ({**PROCESSOR, "rescale_factor": 1 / 127.5}, MEAN, STD, 2),
        ({**PROCESSOR, "do_normalize": False}, (0, 0, 0), (1, 1, 1), 1),
        ({**PROCESSOR, "do_rescale": False, "image_std": [30, 40, 50]}, MEAN, [30, 40, 50], 255),
    ],
)
def test_pixels_are_normalized_as_the_checkpoint_says(tmp_path, save, caplog, processor, mean, std, scale):
    folder = save(tmp_path, "ViTConfig", SMALL)
    file = folder / "preprocessor_config.json"
    file.unlink() if processor is None else file.write_text(json.dumps(processor))
    with caplog.at_level(logging.WARNING, logger="saelib"):
        source = opened(folder)
    assert ("images are normalized by ImageNet's mean" in caplog.text) == (processor is None)
    pixels = pictures(2, 16) // 2
    expected = reference(folder, pixels.astype(int) * scale, mean, std)[0][1][:, 1:].reshape(-1, 32)
    np.testing.assert_allclose(source.forward(examples(pixels), [1]).layers[1], expected, rtol=1e-4, atol=5e-5)


def test_channels_are_in_the_checkpoints_order(tmp_path, save):
    folder = save(tmp_path, "ViTConfig", SMALL)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"do_flip_channel_order": True}))
    pixels = pictures(2, 16)
    expected = reference(folder, pixels[..., ::-1])[0][1][:, 1:].reshape(-1, 32)
    np.testing.assert_allclose(opened(folder).forward(examples(pixels), [1]).layers[1], expected, rtol=1e-4, atol=5e-5)


def test_settings_of_the_image_processor_that_are_not_understood_are_refused(tmp_path, save):
    folder = save(tmp_path, "ViTConfig", SMALL)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"rescale_offset": True}))
    with pytest.raises(UserError, match=r"preprocessor_config\.json: rescale_offset is not understood"):
        opened(folder)


@pytest.mark.parametrize("wrong", [{"image_mean": 0.5}, {"image_std": [0.2, 0.2]}, {"image_mean": ["a", "b", "c"]}])
def test_a_mean_of_another_shape_is_refused(tmp_path, save, wrong):
    folder = save(tmp_path, "ViTConfig", SMALL)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | wrong))
    with pytest.raises(UserError, match="image_mean and image_std have to be three numbers each"):
        opened(folder)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "vit"])
def test_images_that_are_not_whole_patches_are_refused(checkpoints, name):
    with pytest.raises(UserError, match="images of 16 x 18 pixels are not whole patches; choose a multiple of 4"):
        opened(checkpoints[name]).forward(examples(pictures(1, 18, 16)), [1])


def test_text_and_images_of_several_sizes_are_refused(checkpoints):
    source = opened(checkpoints["vit"])
    with pytest.raises(UserError, match="reads images, but example 't' is text"):
        source.forward([Example("t", "t", "words")], [1])
    with pytest.raises(UserError, match="different sizes"):
        source.forward([*examples(pictures(1, 16)), *examples(pictures(1, 24))], [1])


@pytest.mark.parametrize("layer", [-1, 4])
def test_an_unknown_layer_names_the_models_range(checkpoints, layer):
    source = opened(checkpoints["dinov3"])
    with pytest.raises(UserError, match=f"has no layer {layer}; its layers are 0 to 3"):
        source.forward(examples(pictures(1, 16)), [layer])
    with pytest.raises(UserError, match="has no layer"):
        source.d_in(layer)


def test_dinov3_is_read_under_the_names_of_the_hub(checkpoints, tmp_path):
    """`layer.0.norm1.weight`; transformers has called it `model.layer.0.norm1.weight` since."""
    names = load_file(checkpoints["dinov3"] / "model.safetensors").keys()
    assert "layer.0.norm1.weight" in names
    assert not any(name.startswith("model.") for name in names)


def test_a_checkpoint_that_lacks_a_weight_or_is_cut_short_is_refused(tmp_path, save):
    folder = save(tmp_path, "DINOv3ViTConfig", REGISTERS)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["layer.1.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights of DINOv3ViTModel"):
        opened(folder)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load"):
        opened(folder)
    file.unlink()
    with pytest.raises(UserError, match="cannot load"):
        opened(folder)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("ViTMAEConfig", SMALL, "ViTMAEModel does not have one token per patch; use family: module"),
        (
            "SwinConfig",
            {
                "image_size": 16,
                "patch_size": 4,
                "embed_dim": 8,
                "depths": [1, 1],
                "num_heads": [2, 2],
                "window_size": 2,
            },
            "SwinModel does not have one token per patch; use family: module",
        ),
        (
            "YolosConfig",
            {**SMALL, "image_size": [16, 16], "num_detection_tokens": 2},
            "YolosModel does not have one token per patch; use family: module",
        ),
        ("DINOv3ConvNextConfig", {"hidden_sizes": [8] * 4, "depths": [1] * 4}, "keeps its blocks in none of the known"),
        (
            "BertConfig",
            {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
            "BertModel is not a transformer over patches of RGB images",
        ),
        ("ViTConfig", {**SMALL, "num_channels": 1}, "ViTModel is not a transformer over patches of RGB images"),
        ("Siglip2VisionConfig", {**SMALL}, "does not run on pixels alone"),
    ],
)
def test_other_shapes_are_refused(tmp_path, save, kind, arguments, message):
    arguments = {key: value for key, value in arguments.items() if key != "image_size" or "Siglip2" not in kind}
    with pytest.raises(UserError, match=message):
        opened(save(tmp_path, kind, arguments)).forward(examples(pictures(1, 16)), [1])
