"""Neighbors of decoder directions, and a map on which neighbors lie close together."""

from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()

NEIGHBORS = 8
BLOCK = 1024
"""Directions that are compared with all others at a time."""
EPOCHS, PUSHES = 200, 4
"""Rounds of the map's layout, and random latents that push a latent away in each pull of a neighbor."""
SPREAD, POWER = 1.577, 0.895
"""The curve 1 / (1 + SPREAD * distance^(2 POWER)): UMAP's for a smallest distance of 0.1."""


class Neighbors(NamedTuple):
    """The closest other directions of each latent, closest first."""

    latents: NDArray[np.int64]
    """[latents, neighbors]"""
    cosines: NDArray[np.float32]
    """[latents, neighbors], signed."""


def nearest(directions: NDArray[np.floating], count: int = NEIGHBORS) -> Neighbors:
    """Finds the directions with the largest cosine to each, itself left out; memory grows with `BLOCK` x latents.

    Args:
        directions: Decoder directions [latents, d]; a direction of zeros has the cosine 0 with all.
        count: Number of neighbors; fewer if there are fewer other latents.
    """
    unit = _unit(directions)
    count = min(count, len(unit) - 1)
    latents, cosines = np.zeros((len(unit), count), np.int64), np.zeros((len(unit), count), np.float32)
    for start in range(0, len(unit), BLOCK):
        similar = unit[start : start + BLOCK] @ unit.T
        own = np.arange(len(similar))
        similar[own, own + start] = -np.inf
        found = np.argpartition(-similar, min(count, len(unit) - 1), axis=1)[:, :count]
        values = np.take_along_axis(similar, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        latents[start : start + BLOCK] = np.take_along_axis(found, order, axis=1)
        cosines[start : start + BLOCK] = np.take_along_axis(values, order, axis=1)
    return Neighbors(latents, np.clip(cosines, -1, 1))


def layout(directions: NDArray[np.floating], neighbors: Neighbors, seed: int = 0) -> NDArray[np.float32]:
    """Places latents on a map, [latents, 2], each coordinate from 0 to 1, as UMAP does.

    Latents start at their two leading principal components. Then neighbors pull each other together, the more the
    larger their cosine is, and random latents push each other away. Distances across the map mean little.

    Args:
        directions: Decoder directions [latents, d].
        neighbors: What `nearest` found for them.
        seed: Decides the random pushes.
    """
    places = _leading(_unit(directions), seed)
    _settled(places, neighbors.latents, np.clip(neighbors.cosines, 0, 1), np.random.default_rng(seed))
    low, high = np.quantile(places, (0.001, 0.999), axis=0)  # a few stragglers would shrink the rest
    return np.clip((places - low) / np.maximum(high - low, 1e-9), 0, 1).astype(np.float32)


def _unit(directions: NDArray[np.floating]) -> NDArray[np.float32]:
    values = np.asarray(directions, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _leading(unit: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Projects on the two leading principal components, scaled to a width of 20; a little noise parts equal latents."""
    centered = unit - unit.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    places = (centered @ vectors[:, [-1, -min(2, vectors.shape[1])]]).astype(np.float64)
    places *= 10 / max(float(np.abs(places).max()), 1e-9)
    return places + np.random.default_rng(seed).normal(0, 1e-3, places.shape)


@numba.njit(cache=True, fastmath=True)
def _settle(places: NDArray[np.float64], neighbors: NDArray[np.int64], weights: NDArray[np.float32], rng: Any) -> None:
    """Moves the places [latents, 2] by gradient steps on UMAP's cross-entropy, with steps that shrink to 0."""
    latents, count = neighbors.shape
    for epoch in range(EPOCHS):
        step = 1.0 - epoch / EPOCHS
        for i in range(latents):
            for n in range(count):
                if rng.random() >= weights[i, n]:
                    continue
                j = neighbors[i, n]
                x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
                square = x * x + y * y
                if square > 0:
                    pull = -2 * SPREAD * POWER * square ** (POWER - 1) / (1 + SPREAD * square**POWER)
                    x, y = step * min(4.0, max(-4.0, pull * x)), step * min(4.0, max(-4.0, pull * y))
                    places[i, 0] += x
                    places[i, 1] += y
                    places[j, 0] -= x
                    places[j, 1] -= y
                for _ in range(PUSHES):
                    other = rng.integers(0, latents)
                    x, y = places[i, 0] - places[other, 0], places[i, 1] - places[other, 1]
                    square = x * x + y * y
                    if square > 0:
                        push = 2 * POWER / ((0.001 + square) * (1 + SPREAD * square**POWER))
                        places[i, 0] += step * min(4.0, max(-4.0, push * x))
                        places[i, 1] += step * min(4.0, max(-4.0, push * y))


_settled = compiled_from(_settle, file_sha256(Path(__file__)))
