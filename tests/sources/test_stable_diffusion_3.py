"""Stable Diffusion 3, on a small checkpoint as diffusers saves them, against diffusers' own models and their hooks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saelib.config.files import LocalFiles
from saelib.config.sources import StableDiffusion3Source
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

diffusers = pytest.importorskip("diffusers")

SHIFT, SCALE = 0.06, 1.5
BLOCKS, WIDTH, JOINT, POOLED = 3, 32, 24, 16


def roughened(model):
    """Norms and biases of every kind away from one and zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def models():
    """A transformer with the parts of 3.5 large and medium (normed queries, dual attention); a VAE to an eighth."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=BLOCKS, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=JOINT, caption_projection_dim=WIDTH, pooled_projection_dim=POOLED,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        scaling_factor=SCALE, shift_factor=SHIFT, use_quant_conv=False, use_post_quant_conv=False, force_upcast=True,
    )  # fmt: skip
    return roughened(transformer), roughened(vae)


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    """The hub's layout; the transformer in shards."""
    folder = tmp_path_factory.mktemp("sd3")
    models[0].save_pretrained(folder / "transformer", max_shard_size="60KB")
    models[1].save_pretrained(folder / "vae")
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """Returns a copy that a test may break."""
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        for file in (saved / part).iterdir():
            (tmp_path / part / file.name).write_bytes(file.read_bytes())
    return tmp_path


def opened(folder, dtype="float32", device="cpu", **options):
    config = StableDiffusion3Source(family="stable_diffusion_3", weights=LocalFiles(path=folder), **options)
    return open_source(config, device, dtype)


def photos(count, size=(48, 32), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return [Example(f"photo-{i}", f"photo-{i}", image) for i, image in enumerate(pixels)]


def latents_of(models, examples):
    """Prepares latents as diffusers' image-to-image pipeline does, but with the posterior's mean, not a sample."""
    processor = diffusers.image_processor.VaeImageProcessor()
    pixels = processor.preprocess(np.stack([example.content / 255 for example in examples]).astype(np.float32))
    with torch.no_grad():
        return (models[1].encode(pixels).latent_dist.mode() - SHIFT) * SCALE


def hidden_states(transformer, latents, time, embeddings, pooled):
    """Image tokens before and after each block, and the model's own output."""
    stream, handles = [], []
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            handles.append(block.register_forward_hook(lambda module, args, out: stream.append(out[1])))
        before = transformer.pos_embed(latents)
        out = transformer(latents, embeddings, pooled, torch.tensor([time]), return_dict=False)[0]
    for handle in handles:
        handle.remove()
    return [before, *stream], out


def zeros(count, tokens=333):
    return torch.zeros(count, tokens, JOINT), torch.zeros(count, POOLED)


def test_layers_are_diffusers_own_image_tokens(saved, models, device):
    """Without noise, where the whole input is known. Also the last block, which returns no text tokens."""
    examples = photos(2)
    expected, out = hidden_states(models[0], latents_of(models, examples), 0.0, *zeros(2))
    source = opened(saved, device=device, timestep=0.0)
    acts = source.forward(examples, range(BLOCKS + 1))
    tokens = 48 // 16 * (32 // 16)
    assert (source.n_layers, source.d_in(3), acts.tokens_per_example) == (BLOCKS, WIDTH, [tokens] * 2)
    for layer in range(BLOCKS + 1):
        np.testing.assert_allclose(acts.layers[layer], expected[layer].flatten(0, 1).numpy(), atol=1e-4)
    with torch.no_grad():
        last = torch.from_numpy(acts.layers[BLOCKS]).unflatten(0, (2, tokens))
        condition = models[0].time_text_embed(torch.zeros(2), torch.zeros(2, POOLED))
        patches = models[0].proj_out(models[0].norm_out(last, condition)).reshape(2, 3, 2, 2, 2, 4)
    np.testing.assert_allclose(patches.permute(0, 5, 1, 3, 2, 4).reshape(out.shape), out, atol=1e-4)


@pytest.fixture
def inputs(monkeypatch):
    """Records the latents and the time that the transformer is called with."""
    calls = []
    forward = diffusers.SD3Transformer2DModel.forward

    def spy(self, latents, embeddings, pooled, time, **options):
        calls.append((latents.float().numpy(), time.numpy()))
        return forward(self, latents, embeddings, pooled, time, **options)

    monkeypatch.setattr(diffusers.SD3Transformer2DModel, "forward", spy)
    return calls


def test_noise_is_mixed_in_a_straight_line(saved, models, inputs):
    examples = photos(3, size=(128, 128))
    for timestep in (0.0, 0.3, 1.0):
        opened(saved, timestep=timestep).forward(examples, range(BLOCKS + 1))
    (image, _), (mixed, _), (noise, _) = inputs  # three calls: all layers come from one
    np.testing.assert_allclose(image, latents_of(models, examples).numpy(), atol=1e-5)
    np.testing.assert_allclose(mixed, 0.7 * image + 0.3 * noise, atol=1e-5)
    assert [time.tolist() for _, time in inputs] == [[0.0] * 3, [pytest.approx(300.0)] * 3, [1000.0] * 3]
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.std() - 1) < 4 / (2 * noise.size) ** 0.5
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 4 / noise[0].size ** 0.5


def test_pure_noise_knows_the_example_and_not_the_picture(saved):
    """Noise belongs to seed and id: pixels decide nothing, another id or seed decides all."""
    source = opened(saved, timestep=1.0)
    here, there = (source.forward(photos(2, seed=seed), [2]).layers[2] for seed in (0, 1))
    np.testing.assert_array_equal(here, there)
    assert np.abs(here[:6] - here[6:]).max() > 0.1
    other = opened(saved, timestep=1.0, noise_seed=1).forward(photos(2), [2]).layers[2]
    assert np.abs(here - other).max() > 0.1


def test_company_and_order_change_nothing(saved):
    source = opened(saved)
    examples = photos(3)
    together = source.forward(examples, range(BLOCKS + 1))
    backwards = source.forward(examples[::-1], [BLOCKS])
    for layer in range(BLOCKS + 1):
        alone = np.concatenate([source.forward([example], [layer]).layers[layer] for example in examples])
        np.testing.assert_allclose(together.layers[layer], alone, atol=1e-4)
    rows = together.layers[BLOCKS].reshape(3, 6, WIDTH)
    np.testing.assert_allclose(backwards.layers[BLOCKS].reshape(3, 6, WIDTH), rows[::-1], atol=1e-4)


@pytest.mark.parametrize("batch_axis", [True, False])
def test_a_prompt_from_a_file(saved, models, tmp_path, batch_axis):
    torch.manual_seed(1)
    embeddings, pooled = torch.randn(1, 9, JOINT), torch.randn(1, POOLED)
    stored = (embeddings, pooled) if batch_axis else (embeddings[0], pooled[0])
    prompt = tmp_path / "prompt.safetensors"
    save_file({"prompt_embeds": stored[0].contiguous(), "pooled_prompt_embeds": stored[1].contiguous()}, prompt)
    examples = photos(2)
    acts = opened(saved, timestep=0.0, prompt={"path": prompt}).forward(examples, [1, BLOCKS])
    latents = latents_of(models, examples)
    expected, _ = hidden_states(models[0], latents, 0.0, embeddings.expand(2, -1, -1), pooled.expand(2, -1))
    unprompted, _ = hidden_states(models[0], latents, 0.0, *zeros(2))
    for layer in (1, BLOCKS):
        np.testing.assert_allclose(acts.layers[layer], expected[layer].flatten(0, 1).numpy(), atol=1e-4)
        assert float((expected[layer] - unprompted[layer]).abs().max()) > 0.01


def test_prompts_that_do_not_fit_are_refused(saved, tmp_path):
    prompt = tmp_path / "prompt.safetensors"
    with pytest.raises(UserError, match="no such file"):
        opened(saved, prompt={"path": prompt})
    save_file({"prompt_embeds": torch.zeros(9, JOINT)}, prompt)
    with pytest.raises(UserError, match="pooled_prompt_embeds"):
        opened(saved, prompt={"path": prompt})
    for shape in ((9, JOINT + 1), (2, 9, JOINT)):
        save_file({"prompt_embeds": torch.zeros(shape), "pooled_prompt_embeds": torch.zeros(POOLED)}, prompt)
        with pytest.raises(UserError, match=rf"one prompt of \[tokens, {JOINT}\] and \[{POOLED}\]"):
            opened(saved, prompt={"path": prompt})


def test_half_precision_checkpoints_and_passes(folder):
    """A checkpoint in float16 is read in full precision; lower dtypes of the pass change little."""
    for part in ("transformer", "vae"):
        for file in (folder / part).glob("*.safetensors"):
            save_file({key: value.half() for key, value in load_file(file).items()}, file, {"format": "pt"})
    exact = opened(folder).forward(photos(2), [BLOCKS]).layers[BLOCKS]
    for dtype in ("bfloat16", "float16"):
        rounded = opened(folder, dtype=dtype).forward(photos(2), [BLOCKS]).layers[BLOCKS]
        assert rounded.dtype == np.float32
        assert 0 < np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)


def test_a_device_map_changes_nothing(saved):
    expected = opened(saved).forward(photos(2), range(BLOCKS + 1))
    got = opened(saved, device_map="auto").forward(photos(2), range(BLOCKS + 1))
    for layer in range(BLOCKS + 1):
        np.testing.assert_allclose(got.layers[layer], expected.layers[layer], atol=1e-5)


@pytest.mark.parametrize(
    ("size", "message"), [((40, 32), "32 x 40 pixels"), ((144, 16), "multiple of 16, at most 128")]
)
def test_images_that_do_not_fit_are_refused(saved, size, message):
    with pytest.raises(UserError, match=message):
        opened(saved).forward(photos(1, size=size), [1])


def test_text_and_layers_beyond_either_end_are_refused(saved):
    source = opened(saved)
    with pytest.raises(UserError, match="reads images, but example 'a' is text"):
        source.forward([Example("a", "a", "ACGT")], [1])
    for layer in (-1, BLOCKS + 1):
        with pytest.raises(UserError, match="its layers are 0 to 3"):
            source.forward(photos(1), [layer])


def test_incomplete_and_foreign_folders_are_refused(folder):
    vae, transformer = folder / "vae", folder / "transformer"
    weights = vae / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({key: value for key, value in whole.items() if key != "encoder.conv_in.bias"}, weights)
    with pytest.raises(UserError, match=r"unknown weights of AutoencoderKL: encoder\.conv_in\.bias"):
        opened(folder)
    save_file(whole | {"more": torch.zeros(2)}, weights)
    with pytest.raises(UserError, match="unknown weights of AutoencoderKL: more"):
        opened(folder)
    weights.write_bytes(b"garbage")
    with pytest.raises(UserError, match="holds no AutoencoderKL"):
        opened(folder)
    weights.unlink()
    torch.save(whole, vae / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="holds no AutoencoderKL in safetensors"):
        opened(folder)
    shard = next(iter(transformer.glob("*-of-*.safetensors")))
    data = shard.read_bytes()
    shard.write_bytes(data[:-64])
    with pytest.raises(UserError, match="holds no SD3Transformer2DModel"):
        opened(folder)
    shard.unlink()
    with pytest.raises(UserError, match="holds no SD3Transformer2DModel"):
        opened(folder)
    shard.write_bytes(data)
    (transformer / "config.json").write_text("{")
    with pytest.raises(UserError, match="holds no SD3Transformer2DModel"):
        opened(folder)


def test_parts_of_different_models_are_refused(folder, models):
    config = json.loads((folder / "vae" / "config.json").read_text()) | {"latent_channels": 8}
    other = diffusers.AutoencoderKL.from_config(config)
    other.save_pretrained(folder / "vae")
    with pytest.raises(UserError, match="latents have 8 channels, but the transformer reads 4"):
        opened(folder)
