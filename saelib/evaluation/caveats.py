"""Warnings about the figures of a trained SAE."""

from collections.abc import Sequence
from typing import Literal

AtEnd = Literal["low", "high", "no", "only"]
"""Position of the best learning rate among those tried; `only`: one was tried."""

FACTOR, DIFFERENCE = 2, 0.05
"""The unexplained fractions of all tokens together and of the typical token disagree if one is more than twice the
other and they differ by more than 0.05."""


def few_tokens_decide(variance_explained: float, token_fvu_median: float) -> str | None:
    """A sentence if the variance explained over all tokens is not that of a typical token, otherwise None.

    Args:
        variance_explained: That of all tokens together.
        token_fvu_median: The median of each token's own unexplained fraction.
    """
    low, high = sorted((1 - variance_explained, token_fvu_median))
    if high <= FACTOR * low or high - low <= DIFFERENCE:
        return None
    return (
        f"variance explained is {variance_explained:.3f} over all tokens together and {1 - token_fvu_median:.3f} of "
        "the typical token (1 - median of each token's own FVU): a few tokens decide the former, so go by the latter"
    )


def rate_at_end(best: float, rates: Sequence[float]) -> AtEnd:
    """Tell whether the best of these learning rates is the lowest or the highest of them."""
    if len(rates) == 1:
        return "only"
    return "low" if best == min(rates) else "high" if best == max(rates) else "no"


def about_rate(best: float, at_end: AtEnd | None) -> str | None:
    """A sentence if the best learning rate lies at an end of those tried, otherwise None."""
    which = {"low": ("lowest", "smaller"), "high": ("highest", "larger")}.get(at_end or "no")
    if which is None:
        return None
    return f"the best learning rate, {best:g}, is the {which[0]} of those tried; a {which[1]} one may do better"
