"""A training step of each contender at two sizes, next to the encoder's matrix product alone, which is the floor."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.contenders.worker import Setting
from benchmarks.gpu.card import Card, products_in
from benchmarks.gpu.clock import Pace
from benchmarks.gpu.contend import own_pace, peer_pace, peer_python
from benchmarks.gpu.report import Row, Step
from benchmarks.peers import PEERS

FLOORS = ("float32", "tf32", "bfloat16")
OWN = (
    ("saelib", "float32"),
    ("saelib", "tf32"),
    ("saelib", "bfloat16"),
    ("eager", "float32"),
    ("eager", "tf32"),
    ("eager", "bfloat16"),
)
THEIRS = (
    ("sparsify", "bfloat16"),
    ("saelens", "float32"),
    ("saelens", "bfloat16"),
    ("dictionary_learning", "tf32"),
)


def rows(card: Card) -> Iterator[Row]:
    """Times every contender at d_in 768 and d_sae 8,192, then at 4,096 and 65,536."""
    sizes = [card.setting()]
    if not card.tiny:
        sizes.append(replace(sizes[0], d_in=4096, d_sae=65_536, k_aux=2048))
    for setting in sizes:
        yield from _of_one_size(card, setting)


def _of_one_size(card: Card, setting: Setting) -> Iterator[Row]:
    repeats = 20 if setting.d_sae < 65_536 else 5
    title = f"{setting.d_in:,} -> {setting.d_sae:,}"
    floors = {}
    for precision in FLOORS:
        floors[precision] = _product(card, setting, precision)
        yield Row(f"{title}: the product, {precision}", {"ms": floors[precision], "x floor": 1})
    ours = _own(card, title, "saelib", replace(setting, precision="tf32"), repeats, floors)
    for name, precision in OWN:
        same = (name, precision) == ("saelib", "tf32")
        yield ours if same else _own(card, title, name, replace(setting, precision=precision), repeats, floors)
    if card.on_gpu:
        yield _own(card, title, "saelib", replace(setting, precision="tf32", path="torch"), repeats, floors)
    for name in ("saelib", "eager"):
        yield _own(card, title, name, replace(setting, precision="tf32", dead=setting.d_sae // 2), repeats, floors)
    card.free()  # the other libraries' processes need the memory
    for name, precision in THEIRS:
        yield _of_peer(title, name, replace(setting, precision=precision), repeats, floors, ours)


def _own(card: Card, title: str, name: str, setting: Setting, repeats: int, floors: dict[str, float]) -> Row:
    torch_alone = ", torch" if card.on_gpu and name == "saelib" and setting.path == "torch" else ""
    title = f"{title}: {name}{torch_alone}, {setting.precision}{', AuxK, half dead' if setting.dead else ''}"
    try:
        pace = own_pace(card, name, setting, repeats)
    except torch.OutOfMemoryError:
        return Row(title, note="needs more memory than the card has")
    own = name == "saelib" and not torch_alone and not setting.dead
    step = _step(setting, pace.ms) if own else None
    return Row(title, _figures(pace, setting, floors[setting.precision]), step=step)


def _step(setting: Setting, ms: float) -> Step:
    return Step(setting.d_in, setting.d_sae, setting.k, setting.batch_size, setting.precision, ms)


def _of_peer(title: str, name: str, setting: Setting, repeats: int, floors: dict[str, float], ours: Row) -> Row:
    """A step of another library; its time and memory are also given relative to saelib's in TF32, `ours`."""
    title = f"{title}: {name}, {setting.precision}"
    if peer_python(name) is None:
        return Row(title, note=f"absent: {PEERS[name]} (python -m benchmarks.peers {name})")
    try:
        pace = peer_pace(name, setting, repeats)
    except RuntimeError as error:  # another library's trouble is no fault of ours
        return Row(title, note=f"stopped: {str(error).strip().splitlines()[-1]}")
    figures = _figures(pace, setting, floors[setting.precision])
    for ratio, name in (("this / saelib", "ms"), ("peak of saelib / this", "peak, GB")):
        if name in figures and name in ours.figures:
            mine, other = float(ours.figures[name]), figures[name]
            figures[ratio] = other / mine if name == "ms" else mine / other
    return Row(title, figures)


def _product(card: Card, setting: Setting, precision: str) -> float:
    with products_in(precision) as dtype:
        x = torch.randn(setting.batch_size, setting.d_in, device=card.device).to(dtype)
        W = torch.randn(setting.d_sae, setting.d_in, device=card.device).to(dtype)
        return card.median_ms(lambda: torch.mm(x, W.T))


def _figures(pace: Pace, setting: Setting, floor: float) -> dict[str, float]:
    found = {"ms": pace.ms, "x floor": pace.ms / floor, "host, ms": pace.host_ms}
    found |= {"M tokens/s": setting.batch_size / pace.ms / 1e3}
    return found | ({"peak, GB": pace.peak_gb} if pace.peak_gb else {})
