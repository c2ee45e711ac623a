"""A source that the user writes, in a Python file or an installed package. `docs/plugins.md` shows one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.config.sources import PluginSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import Activations, check_layers
from saelib.sources.loading.user_code import call, find_entry_point, run_file, user_code


def open_source(config: PluginSource, device: str, dtype: str) -> "CheckedSource":
    """Runs the plug-in's file, or imports its entry point, and lets it make the source.

    Raises:
        UserError: if there is no such plug-in, if it fails, or if it does not return a source.
    """
    name, function = _function(config)
    options = dict(config.options)
    if config.weights is not None:
        options["weights"] = fetch(config.weights)
    return CheckedSource(name, call(function, f"{name}: open_source failed", options, device, dtype))


def _function(config: PluginSource) -> tuple[str, Callable[..., Any]]:
    """Returns the name of the plug-in in messages, and its `open_source`."""
    if config.file is not None:
        path = fetch(config.file)
        name = f"plugin {path}"
        function = getattr(run_file(path, name), "open_source", None)
        wanted = "needs a function open_source(options, device, dtype)"
    else:
        name = f"plugin {config.entry_point}"
        point = find_entry_point(config.entry_point or "")
        with user_code(f"{name}: importing '{point.value}'"):
            function = point.load()
        wanted = f"'{point.value}' should be a function of (options, device, dtype)"
    if not callable(function):
        raise UserError(f"{name}: {wanted}")
    return name, function


class CheckedSource:
    """A user's source. All its results are checked before they are used."""

    def __init__(self, name: str, source: Any) -> None:
        """Takes the user's `source`, which messages call `name`. Raises `UserError` if it is not a `Source`."""
        for method in ("d_in", "forward"):
            if not callable(getattr(source, method, None)):
                raise UserError(
                    f"{name}: open_source returns a {type(source).__name__}, which has no method '{method}'"
                )
        n_layers = getattr(source, "n_layers", None)
        if not isinstance(n_layers, int) or n_layers < 0:
            raise UserError(f"{name}: n_layers is {n_layers!r}, and should be the number of the last layer")
        self.name = name
        self.n_layers = n_layers
        self._source = source

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer (see `Source.d_in`)."""
        check_layers([layer], self.n_layers, self.name)
        return call(self._source.d_in, f"{self.name}: d_in({layer}) failed", layer)

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Runs the plug-in (see `Source.forward`). Raises `UserError` if its result does not fit the request."""
        check_layers(layers, self.n_layers, self.name)
        acts = call(self._source.forward, f"{self.name}: forward failed", examples, layers)
        try:
            given, counts = dict(acts.layers), [int(count) for count in acts.tokens_per_example]
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"{self.name}: forward returns a {type(acts).__name__}, and should return saelib.sources.Activations "
                "(layers: {number: array}, tokens_per_example: a number for each example)"
            ) from None
        if len(counts) != len(examples) or min(counts, default=0) < 0:
            raise UserError(
                f"{self.name}: tokens_per_example is {counts}, and should be a number for each of the "
                f"{len(examples)} examples"
            )
        return Activations({layer: self._checked(layer, given, sum(counts)) for layer in layers}, counts)

    def _checked(self, layer: int, given: dict[int, Any], tokens: int) -> NDArray[np.float32]:
        where = f"{self.name} layer {layer}"
        if layer not in given:
            raise UserError(f"{where}: is missing; forward returns the layers {', '.join(map(str, given)) or 'none'}")
        values = given[layer]
        if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
            kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
            raise UserError(f"{where}: is {kind}, and should be a numpy array of floats")
        shape = (tokens, self.d_in(layer))
        if values.shape != shape:
            raise UserError(
                f"{where}: has shape {list(values.shape)}, but the sum of tokens_per_example and d_in({layer}) say "
                f"{list(shape)}"
            )
        return values.astype(np.float32, copy=False)
