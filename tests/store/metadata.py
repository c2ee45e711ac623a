"""The description of a store that tests of stores write."""

from typing import Any

from saelib.store import StoreMetadata, StoreWriter


def described(writer: StoreWriter, *, key: str = "k" * 64, layer: int = 3) -> StoreMetadata:
    """Describes what a writer has written, as one example for each split."""
    splits: dict[str, Any] = {f"{split}_tokens": of.tokens for split, of in writer.splits.items()}
    first = writer.splits["train"]
    return StoreMetadata(
        key=key,
        model="m",
        layer=layer,
        d_in=first.d_in,
        chunk_rows=first.chunk_rows,
        index_rows=writer.index_rows,
        dtypes=writer.dtypes,
        reasons=writer.reasons,
        examples={"train": 1, "heldout": 1},
        dataset="none",
        versions={},
        **splits,
    )
