"""What a data set gives: examples, in a seeded order, with held-out ones from other groups."""

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
    """One thing that a model is shown: a passage, a sequence, an image."""

    id: str
    """Where it was cut from, for messages: `record:start-stop`."""
    group: str
    """What it was cut from: document, photograph, record. A group is never in both splits."""
    content: str | NDArray[np.uint8]
    """Text or sequence letters; an image is RGB [height, width, 3]."""


class Dataset(Protocol):
    """A finite collection of examples."""

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Each example of the split once, in an order that the seed alone decides.

        Raises:
            UserError: where the data have fewer than two groups.
        """
        ...


def split_by_group(
    items: Sequence[Item], groups: Sequence[str], split: Split, seed: int, heldout_fraction: float, dataset: str
) -> list[Item]:
    """The items of one split, shuffled.

    Groups, taken in a random order, are held out as long as they fit into `heldout_fraction` of the items; at least
    one is held out, and never all.

    Args:
        items: anything that stands for an example (an id, a place in a file), in an order that is always the same.
        groups: the group of each item.
        split: which part to return.
        seed: decides both the split and the order.
        heldout_fraction: share of the items, in (0, 1).
        dataset: what messages call the data set.

    Raises:
        UserError: where there are fewer than two groups.
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
    """A number in [0, 2**64), as good as drawn by chance for each seed and name, and the same on every machine."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
