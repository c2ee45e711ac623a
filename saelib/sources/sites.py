"""Finds the modules of a block whose outputs are added to the residual stream: one of its attention, one of its MLP."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from saelib.config.sites import LayerSite, Site
from saelib.errors import UserError

MODULES: dict[Site, tuple[str, ...]] = {
    "attention_out": (
        "layer_scale1",  # DINOv2 and DINOv3 scale what they add
        "post_self_attn_layernorm",  # GLM-4 norms it
        "attention.output.dense",  # BERT, RoBERTa, ELECTRA, DeBERTa, ESM; `attention.output` adds the stream
        "attention.attn",  # MPNet, whose `attention` adds the stream
        "attention.wo",  # gLM2
        "self_attention.dense",  # Bloom, whose `self_attention` adds the stream, and Falcon
        "self_attn",  # Llama, Mistral, Qwen, Gemma, Phi, OPT, CLIP, SigLIP, fair-esm
        "attention",  # GPT-NeoX, DistilBERT, ViT
        "attn",  # GPT-2, GPT-J, MPT, ModernBERT, ESM3
    ),
    "mlp_out": (
        "layer_scale2",
        "post_mlp_layernorm",
        "post_feedforward_layernorm",  # Gemma 2 and 3, OLMo 2
        "output.dense",
        "feed_forward.w2",  # gLM2, LFM2
        "mlp.dense_4h_to_h",  # Bloom, whose `mlp` adds the stream; Falcon, GPT-NeoX
        "ffn.down_proj",  # MPT, whose `ffn` adds the stream
        "mlp",
        "feed_forward",  # RWKV
        "mlp_block",  # RecurrentGemma
        "ffn",  # DistilBERT, ESM3
        "fc2",  # OPT, BioGPT, fair-esm
    ),
}
"""Paths within a block; the first one that exists is taken. A norm or scale after the sublayer comes first."""

NORMED_AFTERWARDS = ("attention.output.LayerNorm", "attention.attn", "sa_layer_norm")
"""Paths within blocks that norm the sum of stream and sublayer (BERT, MPNet, DistilBERT)."""


TOLERANCE = 0.01
"""The largest error of input + attention_out + mlp_out = output that passes, relative to the two."""


class Sublayer(NamedTuple):
    """A module, and the factor by which the block multiplies its output before it adds it to the stream."""

    path: str
    module: torch.nn.Module
    factor: Any


def sublayer(block: torch.nn.Module, site: Site) -> Sublayer | None:
    """Returns the module of a block whose output is the site; None if the block has none of the known names."""
    paths = MODULES[site]
    if site == "attention_out" and _at(block, "post_feedforward_layernorm") is not None:
        # Only in blocks that also norm what their MLP adds is this the norm of what the attention adds.
        paths = ("post_attention_layernorm", *paths)
    for path in paths:
        module = _at(block, path)
        if module is not None:
            return Sublayer(path, module, _factor(block, site))
    return None


def find_sublayer(block: torch.nn.Module, wanted: LayerSite, name: str) -> Sublayer:
    """Returns the module of a block whose output is the site. Messages call the layer `name`.

    Raises:
        UserError: if the block has no module by one of the known names.
    """
    found = sublayer(block, wanted.site)
    if found is None:
        children = ", ".join(child for child, _ in block.named_children()) or "nothing"
        raise UserError(
            f"{name}: no {wanted.site}; {type(block).__name__} is made of {children}, and none of "
            f"{', '.join(MODULES[wanted.site])} is among them; leave this layer or site out, or use family: plugin"
        )
    return found


class SublayerRecorder:
    """Records what one block adds to the stream in a pass, and checks that nothing else is added to it."""

    def __init__(
        self,
        block: torch.nn.Module,
        wanted: Sequence[LayerSite],
        stream: dict[Any, torch.Tensor],
        stream_of: Callable[[Any], torch.Tensor],
        name_of: Callable[[Any], str],
    ) -> None:
        """Finds the modules. Raises `UserError` if one that is wanted has none of the known names.

        Args:
            block: The block.
            wanted: The sites to record, all of this block.
            stream: Filled by the pass: site -> copy of what is added there.
            stream_of: Finds the stream in the output of a block or a sublayer, or in a block's first input.
            name_of: Returns the name of a layer in messages.
        """
        self._block, self._wanted, self._stream = block, wanted, stream
        self._stream_of, self._name_of = stream_of, name_of
        self._found = {one.site: find_sublayer(block, one, name_of(one.layer)) for one in wanted}
        for site in MODULES.keys() - self._found.keys():
            if other := sublayer(block, site):
                self._found[site] = other
        self._before: torch.Tensor | None = None
        self._added: dict[Site, torch.Tensor] = {}
        self._off: torch.Tensor | None = None

    def hook(self) -> list[Any]:
        """Registers the hooks for a pass, and returns their handles."""
        handles = [self._block.register_forward_pre_hook(self._start, with_kwargs=True)]
        for site, found in self._found.items():
            handles.append(
                found.module.register_forward_hook(lambda _, args, output, site=site: self._add(site, output))
            )
        return [*handles, self._block.register_forward_hook(self._end)]

    def _start(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        self._before = None if given is None else self._stream_of(given).clone()

    def _add(self, site: Site, output: Any) -> None:
        added = (self._stream_of(output) * self._found[site].factor).clone()
        if self._before is not None and added.numel() == self._before.numel():
            added = added.reshape(self._before.shape)  # OPT runs its MLP on [examples * tokens, d_in]
        self._added[site] = added

    def _end(self, _: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for one in self._wanted:
            if one.site in self._added:
                self._stream[one] = self._added[one.site]
        if self._before is not None and len(self._added) == len(MODULES) and not _norms_the_sum(self._block):
            self._off = _off(self._before, list(self._added.values()), self._stream_of(output))
        self._before, self._added = None, {}

    def check(self) -> None:
        """Raises `UserError` if a wanted module did not run, or if the block added something else to the stream."""
        for one in self._wanted:
            if one not in self._stream:
                path = self._found[one.site].path
                raise UserError(f"{self._name_of(one.layer)}: its {path} did not run, so there is no {one.site}")
        off = 0.0 if self._off is None else float(self._off.detach())
        if off > TOLERANCE:
            paths = " and ".join(found.path for found in self._found.values())
            raise UserError(
                f"{self._name_of(self._wanted[0].layer)}: its input and the outputs of {paths} do not add up to its "
                f"output (off by {off:.0%} of what they add), so they are not what it adds to the stream; use family: "
                "plugin"
            )


def _off(before: torch.Tensor, added: list[torch.Tensor], after: torch.Tensor) -> torch.Tensor:
    """Returns the error of `before + added = after` beyond rounding, relative to what is added."""
    rounding = 8 * torch.finfo(after.dtype).eps * (before.float().norm() + after.float().norm())
    parts = [part.float() for part in added]
    error = (after.float() - before.float() - sum(parts)).norm()
    return (error - rounding) / sum(part.norm() for part in parts)


def _norms_the_sum(block: torch.nn.Module) -> bool:
    """Checks whether a block norms the sum of stream and sublayer (BERT, OPT-350m): then its output is no plain sum."""
    return not getattr(block, "do_layer_norm_before", True) or any(_at(block, path) for path in NORMED_AFTERWARDS)


def _factor(block: torch.nn.Module, site: Site) -> Any:
    """Returns what a block multiplies a sublayer's output by: Granite's and BEiT's factors, and ESM3's divisor."""
    factor = getattr(block, "residual_multiplier", 1.0) / getattr(block, "scaling_factor", 1.0)
    scale = getattr(block, {"attention_out": "lambda_1", "mlp_out": "lambda_2"}[site], None)
    return factor if scale is None else factor * scale


def _at(block: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """Returns the module at a path within a block; None if there is none."""
    found: Any = block
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, torch.nn.Module) else None
