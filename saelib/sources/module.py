"""Any `torch.nn.Module` of the user's: a factory makes it, a function prepares its inputs, paths name its blocks."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from saelib.config.sources import ModuleSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import (
    Activations,
    check_layers,
    images,
    kept_rows,
    recorded,
    texts,
    torch_device,
    torch_dtype,
)
from saelib.sources.loading.user_code import call, load_dotted, user_code

AXES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "example token channel": lambda values: values,
    "token example channel": lambda values: values.transpose(0, 1),
    "example channel position": lambda values: values.reshape(*values.shape[:2], -1).transpose(1, 2),
}
"""Layout in the config -> function that turns the output of a block into [examples, tokens, d_in]."""


def open_source(config: ModuleSource, device: str, dtype: str) -> "UserModule":
    """Imports and calls the user's factory, loads the weights and finds the blocks.

    Raises:
        UserError: if something cannot be imported or has the wrong type, or if the user's code fails.
    """
    name = f"module {config.factory}"
    target = torch_device(device)
    folder = fetch(config.import_from).resolve() if config.import_from else None
    factory = load_dotted(config.factory, folder, "module: factory")
    prepare = load_dotted(config.prepare, folder, "module: prepare")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the factory may draw weights, which should be the same in every run
        module = call(factory, f"{name}: the factory failed", **config.arguments)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{name}: returns a {type(module).__name__}, and should return a torch.nn.Module")
    if config.weights is not None:
        _load(module, fetch(config.weights), name)
    blocks = find_blocks(module, config.hooks, config.first, name)
    return UserModule(name, config, module.eval(), blocks, prepare, target, torch_dtype(dtype))


class UserModule:
    """A user's module as a `saelib.sources.Source`."""

    def __init__(
        self,
        name: str,
        config: ModuleSource,
        module: torch.nn.Module,
        blocks: Sequence[torch.nn.Module],
        prepare: Callable[..., Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Takes a module in evaluation mode. Messages call it `name`."""
        self.name = name
        self.n_layers = len(blocks)
        self._config = config
        self._module = module.to(device, dtype)
        self._blocks = blocks
        self._prepare = prepare
        self._device = device
        self._dtype = dtype
        self._widths: dict[int, int] = {}

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer. Raises `UserError` before the first pass over that layer, which reveals it."""
        check_layers([layer], self.n_layers, self.name)
        if layer not in self._widths:
            raise UserError(f"{self.name}: the width of layer {layer} is not known before it has run")
        return self._widths[layer]

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Runs the module on the examples (see `Source.forward`)."""
        check_layers(layers, self.n_layers, self.name)
        inputs, keep = self._prepared(examples)
        with (
            user_code(f"{self.name}: the forward pass failed"),
            torch.inference_mode(),
            recorded(self._blocks, layers, self._where) as found,
        ):
            self._module(**inputs)
        stream = {layer: self._in_order(layer, found[layer], len(examples)) for layer in layers}
        kept = self._kept(stream, keep)
        self._widths |= {layer: values.shape[2] for layer, values in stream.items()}
        return kept_rows(stream, kept)

    def _prepared(self, examples: Sequence[Example]) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Calls `prepare` and moves its tensors to the device, those in floating point in the dtype of the pass."""
        is_text = all(isinstance(example.content, str) for example in examples)
        contents = texts(examples, self.name) if is_text else images(examples, self.name)
        what = f"{self.name}: prepare '{self._config.prepare}'"
        match call(self._prepare, f"{what} failed", contents):
            case (dict() as inputs, keep):
                pass
            case other:
                raise UserError(f"{what} returns {_shown(other)}, and should return (keyword arguments, keep)")
        for key, value in inputs.items():
            if isinstance(value, torch.Tensor):
                inputs[key] = value.to(self._device, self._dtype if value.is_floating_point() else None)
        if keep is None:
            return inputs, None
        mask = torch.as_tensor(keep) if isinstance(keep, np.ndarray | torch.Tensor) else None
        if mask is None or mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != len(examples):
            raise UserError(
                f"{what} returns as keep {_shown(keep)}, and should return bool [{len(examples)} examples, tokens] or "
                "None"
            )
        return inputs, mask

    def _in_order(self, layer: int, values: Any, n_examples: int) -> torch.Tensor:
        """Turns the output of a block into [examples, tokens, d_in]."""
        path = self._where(layer)
        layout = self._config.layout
        axes = (2, 3, 4, 5) if layout == "example channel position" else (3,)
        if not isinstance(values, torch.Tensor) or values.ndim not in axes:
            raise UserError(f"{path} returns {_shown(values)}, which is not in the layout '{layout}'")
        ordered = AXES[layout](values)
        if len(ordered) != n_examples:
            raise UserError(f"{path} returns {_shown(values)} for {n_examples} examples, not in the layout '{layout}'")
        return ordered

    def _kept(self, stream: dict[int, torch.Tensor], keep: torch.Tensor | None) -> torch.Tensor:
        """Returns the tokens to keep, bool [examples, tokens], after checking that every layer has them."""
        layer, values = next(iter(stream.items()))
        for other, others in stream.items():
            if others.shape[:2] != values.shape[:2]:
                raise UserError(
                    f"{self.name}: layers {layer} and {other} have {values.shape[1]} and {others.shape[1]} tokens per "
                    "example; make each group of layers with the same number of tokens a model of its own in the config"
                )
        if keep is None:
            return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if keep.shape != values.shape[:2]:
            raise UserError(
                f"{self._where(layer)} has {values.shape[1]} tokens per example in the layout '{self._config.layout}', "
                f"but keep has {keep.shape[1]}"
            )
        return keep.to(values.device)

    def _where(self, layer: int) -> str:
        path = _path(self._config.hooks, self._config.first, max(layer, 1))
        return f"{self.name}: layer {layer} ({'the input of ' if layer == 0 else ''}'{path}')"


def find_blocks(module: torch.nn.Module, hooks: str | tuple[str, ...], first: int, name: str) -> list[torch.nn.Module]:
    """Returns the blocks at the paths, in order. A pattern stands for all existing numbers from `first` on.

    Raises:
        UserError: for a path that does not exist, with the modules at the point where it breaks off.
    """
    if not isinstance(hooks, str):
        return [_at(module, path, name) for path in hooks]
    blocks = [_at(module, _path(hooks, first, 1), name)]
    for layer in count(2):
        try:
            blocks.append(module.get_submodule(_path(hooks, first, layer)))
        except AttributeError:
            break
    return blocks


def _path(hooks: str | tuple[str, ...], first: int, layer: int) -> str:
    return hooks.replace("{layer}", str(first + layer - 1)) if isinstance(hooks, str) else hooks[layer - 1]


def _at(module: torch.nn.Module, path: str, name: str) -> torch.nn.Module:
    here = module
    parts = path.split(".")
    for depth, part in enumerate(parts):
        children = dict(here.named_children())
        if part not in children:
            above = ".".join(parts[:depth])
            there = f"'{above}' ({type(here).__name__}) has" if above else f"{type(here).__name__} has"
            raise UserError(f"{name}: no block '{path}': {there} {', '.join(children) or 'no modules inside'}")
        here = children[part]
    return here


def _load(module: torch.nn.Module, file: Path, name: str) -> None:
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{name}: {file}: holds objects, which may run code; save only the state_dict") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{name}: {file}: not readable as weights ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{name}: {file}: holds {_shown(state)}, and should hold a state_dict: tensors by name")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # it lists keys and shapes, one per line
        raise UserError(f"{name}: {file}: {' '.join(str(error).split())[:600]}") from None


def _shown(value: Any) -> str:
    """Describes a value in a few words."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in list(value)[:5]) or 'nothing'}"
    return f"a {type(value).__name__}"
