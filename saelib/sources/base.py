"""The interface of models: one forward pass returns every wanted layer, at every wanted site."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.config.sites import SITE_FAMILIES, Layer, LayerSite, number_of
from saelib.datasets.base import Example
from saelib.errors import UserError

if TYPE_CHECKING:
    import torch

    from saelib.sources.sites import SublayerRecorder

RUN_BY_RUN = "write a plug-in (family: plugin, docs/plugins.md) that returns each run as a layer of its own"
"""Advice for models whose blocks run more than once."""

_left_on_device: ContextVar[bool] = ContextVar("left_on_device", default=False)


@dataclass(frozen=True, eq=False)
class Activations:
    """The result of one forward pass."""

    layers: dict[Layer, Any]
    """Layer, or site of a layer -> float32 [tokens, d_in], with the tokens of the examples one after another: an array,
    or inside `rows_left_on_device` what that says."""
    tokens_per_example: list[int]
    """Number of tokens kept from each example, in the order given; their sum is `tokens`."""


class Source(Protocol):
    """A loaded model. Layer i is the residual stream after block i, before any final norm; layer 0 the embeddings.

    `LayerSite(i, "attention_out")` and `LayerSite(i, "mlp_out")` are what the attention and the MLP of block i add to
    the stream; the families in `SITE_FAMILIES` have them.
    """

    n_layers: int
    """Number of blocks, which is also the number of the last layer."""

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer, which is the same at all of its sites."""
        ...

    def forward(self, examples: Sequence[Example], layers: Sequence[Layer]) -> Activations:
        """Runs the examples through the model once, as one batch, and returns every wanted layer.

        Padding is dropped, and so are special tokens unless the config keeps them.

        Raises:
            UserError: for a layer or site that the model does not have, or examples of the wrong kind (images, text).
        """
        ...


def check_layers(
    layers: Sequence[Layer], n_layers: int, model: str, first: int = 0, *, has_sites: bool = False
) -> None:
    """Raises `UserError` for a layer outside `first` to `n_layers`, or a site that it does not have.

    Args:
        layers: The layers and sites that are asked for.
        n_layers: The number of the last layer.
        model: The name of the model in the message.
        first: The number of the first layer.
        has_sites: Whether the source can record other sites than the residual stream.
    """
    wrong = [layer for layer in layers if not first <= number_of(layer) <= n_layers]
    if wrong:
        raise UserError(
            f"{model}: has no layer {', '.join(map(str, wrong))}; its layers are {first} to {n_layers}"
            + (" (0: the embeddings)" if first == 0 else "")
        )
    for layer in layers:
        if isinstance(layer, LayerSite) and not has_sites:
            raise UserError(
                f"{model}: has no {layer.site}, only the residual stream; families with other sites are "
                f"{', '.join(SITE_FAMILIES)}"
            )
        if isinstance(layer, LayerSite) and layer.layer == 0:
            raise UserError(f"{model}: layer 0 is the embeddings, which have no {layer.site}; ask for layer 1 or later")


def texts(examples: Sequence[Example], model: str) -> list[str]:
    """Returns the examples' text. Raises `UserError` if they are images."""
    for example in examples:
        if not isinstance(example.content, str):
            raise UserError(f"{model}: reads text, but example '{example.id}' is an image; name another dataset")
    return [str(example.content) for example in examples]


def images(examples: Sequence[Example], model: str) -> NDArray[np.uint8]:
    """Stacks the examples to [images, height, width, 3]. Raises `UserError` if they are text or differ in size."""
    pixels = []
    for example in examples:
        if isinstance(example.content, str):
            raise UserError(f"{model}: reads images, but example '{example.id}' is text; name another dataset")
        pixels.append(example.content)
    if len({array.shape for array in pixels}) > 1:
        raise UserError(f"{model}: images in one batch have different sizes")
    return np.stack(pixels)


def first_of(value: Any) -> "torch.Tensor":
    """Returns the residual stream from the output of a block: the output itself, or the first item of a tuple."""
    return value[0] if isinstance(value, tuple) else value


@contextmanager
def recorded(
    blocks: Sequence["torch.nn.Module"],
    layers: Sequence[Layer],
    name: str | Callable[[int], str],
    stream_of: Callable[[Any], Any] = first_of,
) -> Iterator[dict[Layer, Any]]:
    """Records the residual stream of each layer while one forward pass runs inside the `with` block.

    The dict that it yields is filled with copies, because a later block may change its input in place. Layer 0 is the
    input of the first block, and layer i the output of block i. Other sites of a layer are the outputs of modules
    within its block (`saelib.sources.sites`). The layers must exist (see `check_layers`).

    Args:
        blocks: All residual blocks of the model, in order.
        layers: The layers and sites to record.
        name: The name of the model in messages, or a function that returns the name of one of its layers.
        stream_of: Finds the stream in the output of a block or of a module within it, or in a block's first input.

    Raises:
        UserError: if the module of a site is not found or is not what its block adds to the stream, or if a block runs
            more than once in the pass, runs before an earlier one, stands at two places of `blocks`, or is wanted and
            does not run. Its number would not stand for exactly one residual stream.
    """
    name_of = name if callable(name) else lambda layer: f"{name}: layer {layer}"
    check_distinct(blocks, name_of)
    stream: dict[Layer, Any] = {}
    runs: list[int] = []

    def keep(layer: int, value: Any) -> None:
        found = stream_of(value)
        stream[layer] = found.clone() if hasattr(found, "clone") else found

    def before(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        runs.append(layer)
        if layer == 1 and 0 in layers:
            if not args and "hidden_states" not in kwargs:
                raise UserError(
                    f"{name_of(0)}: the first block is called with {', '.join(kwargs) or 'nothing'} by keyword, which "
                    "does not say which of them is the residual stream; pass the stream first, or leave layer 0 out"
                )
            keep(0, args[0] if args else kwargs["hidden_states"])

    handles = []
    inside = _inside(blocks, layers, stream, stream_of, name_of)
    for recorder in inside:
        handles.extend(recorder.hook())
    for layer, block in enumerate(blocks, 1):
        handles.append(
            block.register_forward_pre_hook(lambda _, args, kwargs, i=layer: before(i, args, kwargs), with_kwargs=True)
        )
        if layer in layers:
            handles.append(block.register_forward_hook(lambda _, args, output, i=layer: keep(i, output)))
    try:
        yield stream
    finally:
        for handle in handles:
            handle.remove()
    _check_runs(runs, [number_of(layer) for layer in layers], name_of)
    for recorder in inside:
        recorder.check()


def _inside(
    blocks: Sequence["torch.nn.Module"],
    layers: Sequence[Layer],
    stream: dict[Layer, Any],
    stream_of: Callable[[Any], Any],
    name_of: Callable[[int], str],
) -> list["SublayerRecorder"]:
    """Returns a recorder for each block of which other sites than its output are wanted."""
    wanted: dict[int, list[LayerSite]] = {}
    for layer in layers:
        if isinstance(layer, LayerSite):
            wanted.setdefault(layer.layer, []).append(layer)
    if not wanted:
        return []
    from saelib.sources.sites import SublayerRecorder

    return [SublayerRecorder(blocks[i - 1], sites, stream, stream_of, name_of) for i, sites in wanted.items()]


def check_distinct(blocks: Sequence["torch.nn.Module"], name_of: Callable[[int], str]) -> None:
    """Raises `UserError` if one module is used for two layers, as in ALBERT, whose layers share their weights."""
    first: dict[int, int] = {}
    for layer, block in enumerate(blocks, 1):
        if id(block) in first:
            raise UserError(
                f"{name_of(layer)} has the same module as layer {first[id(block)]}, so a hook cannot tell them apart; "
                f"{RUN_BY_RUN}"
            )
        first[id(block)] = layer


def _check_runs(runs: Sequence[int], layers: Sequence[int], name_of: Callable[[int], str]) -> None:
    for layer in sorted(set(runs)):
        if runs.count(layer) > 1:
            raise UserError(
                f"{name_of(layer)}: its block runs more than once in a pass ({runs.count(layer)} times), so its number "
                f"does not stand for one layer; {RUN_BY_RUN}"
            )
    for before, after in pairwise(runs):
        if before > after:
            raise UserError(f"{name_of(before)} runs before layer {after}; name the blocks in the order they run in")
    for layer in sorted(layers):
        if max(layer, 1) not in runs:
            raise UserError(
                f"{name_of(layer)} did not run in the forward pass (a list of blocks never runs, and a block whose "
                "`forward` is called directly is not seen; name a block that the model calls)"
            )


def input_device(model: "torch.nn.Module") -> "torch.device":
    """Returns the device that a model takes its inputs on: that of its first parameters, the embeddings."""
    import torch

    device = next(model.parameters()).device
    # accelerate loads parts that fit no GPU when they are needed (until then they are on `meta`), and moves the inputs.
    return torch.device("cpu") if device.type == "meta" else device


def kept_rows(stream: Mapping[Any, "torch.Tensor"], keep: "torch.Tensor") -> Activations:
    """Concatenates the tokens that are kept from each example.

    Args:
        stream: Layer -> [examples, tokens, d_in], in any float type and on any device.
        keep: The tokens to keep, bool [examples, tokens].

    Raises:
        UserError: if the tokens of a layer do not match `keep`.
    """
    import torch

    for layer, values in stream.items():
        if values.shape[:-1] != keep.shape:
            raise UserError(
                f"layer {layer}: the block returns {list(values.shape)}, which is not [examples, tokens, d_in] for "
                f"{len(keep)} examples of {keep.shape[1]} tokens; use family: module"
            )
    mask = keep.cpu()
    rows = mask.flatten().nonzero().squeeze(1)  # found once; a boolean index would be searched again for each layer
    counts = mask.sum(dim=1).tolist()
    kept = {layer: v.flatten(0, 1).index_select(0, rows.to(v.device)) for layer, v in stream.items()}
    if _left_on_device.get():
        return Activations({layer: v.float() for layer, v in kept.items()}, counts)
    # All layers are copied at the same time and in the dtype of the pass. The blocks may lie on several devices.
    kept = {layer: v.to("cpu", non_blocking=True) for layer, v in kept.items()}
    for device in {v.device for v in stream.values() if v.is_cuda}:
        torch.cuda.synchronize(device)
    return Activations({layer: v.float().numpy() for layer, v in kept.items()}, counts)


@contextmanager
def rows_left_on_device() -> Iterator[None]:
    """Inside, forward passes leave their rows where the blocks lie, as tensors, for readers that need them there.

    Sources that compute outside of torch (plug-ins, AlphaFold 3) still return arrays.
    """
    before = _left_on_device.set(True)
    try:
        yield
    finally:
        _left_on_device.reset(before)


def concatenated(parts: Sequence[Any]) -> Any:
    """Joins rows [tokens, d_in] of several passes, arrays or tensors."""
    import torch

    return torch.cat([*parts]) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)


def torch_device(name: str) -> "torch.device":
    """Returns the device of that name. Raises `UserError` if this machine has none."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA fails an assertion
        raise UserError(f"device '{name}': not available here ({str(error).splitlines()[0]})") from None
    return device


def torch_dtype(name: str) -> "torch.dtype":
    """Returns the dtype of that name: float32, bfloat16 or float16."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
