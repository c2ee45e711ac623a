"""The interface of data sets: examples in a seeded order, with held-out examples from other groups."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError

Split = Literal["train", "heldout"]
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Example:
    """One input of a model: a passage, a sequence or an image."""

    id: str
    """The place that it was cut from, for messages: `record:start-stop`."""
    group: str
    """The document, photograph or record that it was cut from. A group is never in both splits."""
    content: str | NDArray[np.uint8]
    """Text, letters of a sequence, or an image in RGB [height, width, 3]."""


class Dataset(Protocol):
    """A finite collection of examples."""

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields each example of the split once, in an order that only the seed decides.

        Raises:
            UserError: if the data have fewer than two groups.
        """
        ...


def split_by_group(
    items: Sequence[Item], groups: Sequence[str], split: Split, seed: int, heldout_fraction: float, dataset: str
) -> list[Item]:
    """Returns the items of one split, shuffled.

    Groups are taken in a random order, and each is held out if it still fits into `heldout_fraction` of the items.
    At least one group is held out, and never all of them.

    Args:
        items: Anything that stands for an example (an id, a place in a file), always in the same order.
        groups: The group of each item.
        split: Which part to return.
        seed: Decides both the split and the order.
        heldout_fraction: Share of the items, in (0, 1).
        dataset: The name of the data set in messages.

    Raises:
        UserError: if there are fewer than two groups.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise UserError(
            f"{dataset}: has {len(items)} examples from {len(sizes)} group(s) (documents, photographs or records); "
            "at least two groups are needed, because held-out examples come from other groups"
        )
    rng = np.random.default_rng(seed)
    names = sorted(sizes)
    heldout: set[str] = set()
    room = heldout_fraction * len(items)
    for name in (names[i] for i in rng.permutation(len(names))):
        if sizes[name] <= room:
            heldout.add(name)
            room -= sizes[name]
    if not heldout:
        heldout.add(min(names, key=lambda name: (sizes[name], name)))
    order = rng.permutation(len(items))
    return [items[i] for i in order if (groups[i] in heldout) == (split == "heldout")]


def keyed_hash(seed: int, name: str) -> int:
    """Hashes a name, keyed by a seed, to a number in [0, 2**64): pseudo-random, and the same on every machine."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
