"""The remarks of a report: gaps and warnings, with those that are almost equal told as one."""

import re
from collections import defaultdict
from collections.abc import Sequence

from saelib.config.sites import Layer
from saelib.report.results import Place, Results, where

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")

Remark = tuple[str, Place | None]
"""A sentence and its layer; None: every layer."""


def remarks_of(results: Results) -> list[Remark]:
    """Collects the warnings of the statistics and of training, and the choices of `auto`."""
    remarks: list[Remark] = []
    for place, stats in results.stats.items():
        remarks += [(text, place) for text in stats.warnings]
    for place, sweep in results.sweeps.items():
        remarks += [(text, place) for text in sweep.caveats]
        if sweep.preprocessing_reason:
            text = f"preprocessing chosen: {sweep.options.preprocessing.kind}. "
            remarks.append((text + sweep.preprocessing_reason, place))
    return remarks


def grouped(remarks: Sequence[Remark]) -> list[tuple[str, list[str]]]:
    """Tells remarks that differ in their numbers alone as one, with the places that it is about.

    Returns:
        Text and places of each: ('the largest norm is 41 to 204 times the median', ['gpt2 layer 1-3']).
    """
    texts: dict[str, list[str]] = defaultdict(list)
    places: dict[str, dict[tuple[str, str], list[Layer]]] = defaultdict(lambda: defaultdict(list))
    for text, place in remarks:
        shape = _NUMBER.sub("\0", text)
        texts[shape].append(text)
        if place is None:
            places[shape]["every layer", ""] = []
        else:
            places[shape][place.model, place.variant].append(place.layer)
    return [(_merged(alike), _named(places[shape])) for shape, alike in texts.items()]


def _named(places: dict[tuple[str, str], list[Layer]]) -> list[str]:
    """Names layers, with all variants that share them: 'gpt2 layer 3, baseline, auxk'."""
    variants: dict[tuple[str, tuple[Layer, ...]], list[str]] = defaultdict(list)
    for (model, variant), layers in places.items():
        variants[model, tuple(layers)].append(variant)
    return [where(model, ", ".join(names), layers) for (model, layers), names in variants.items()]


def _merged(alike: list[str]) -> str:
    """Writes sentences that differ in their numbers alone as one sentence, with ranges."""
    ranges = iter([_range(numbers) for numbers in zip(*map(_NUMBER.findall, alike), strict=True)])
    return _NUMBER.sub(lambda _: next(ranges), alike[0])


def _range(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=_value), max(numbers, key=_value)
    return low if _value(low) == _value(high) else f"{low} to {high}"


def _value(number: str) -> float:
    return float(number.replace(",", ""))
