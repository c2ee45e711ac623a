"""Grids of settings: a key that holds a list is an axis, and the grid is the product of all axes."""

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticUndefined

from saelib.config.base import Section

Coordinates = dict[str, Any]
"""Key -> one value of it."""


def axis(kind: Any) -> Any:
    """Returns the type of a key that holds one value of type `kind` or a list of several; it is read as a tuple."""
    return Annotated[tuple[kind, ...], Field(min_length=1), BeforeValidator(_listed, kind | list[kind])]


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Grid(Section):
    """A section in which every key may be a list of values. It stands for all combinations of the values."""

    of: ClassVar[type[Section]]
    """The section that each combination is an instance of."""

    def points(self) -> list[Section]:
        """Returns the section of every combination; the last key varies fastest."""
        return [self.of(**point) for point in combinations(self.values())]

    def values(self) -> dict[str, tuple[Any, ...]]:
        """Returns the values of every key."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="after")
    def _all_points_are_possible(self) -> Self:
        for point in combinations(self.values()):
            try:
                self.of(**point)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
                axes = {name: point[name] for name, values in self.values().items() if len(values) > 1}
                where = f" at {label(axes)}" if axes else ""
                raise ValueError(f"{first}{where}") from None
        return self


def grid_of(section: type[Section], name: str) -> Any:
    """Makes the grid class of a section: the same keys and defaults, each of which may be a list."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        default = ... if field.default is PydanticUndefined else (field.default,)
        fields[key] = (axis(kind), default)
    made = create_model(name, __base__=Grid, __doc__=section.__doc__, __module__=__name__, **fields)
    made.of = section
    return made


def combinations(values: dict[str, tuple[Any, ...]]) -> list[Coordinates]:
    """Lists all combinations of the keys' values; the last key varies fastest."""
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def label(coordinates: Coordinates) -> str:
    """Names a point of a grid by its coordinates: 'gamma=2, k=5'."""
    return ", ".join(f"{name}={plain(value)}" for name, value in coordinates.items())


def plain(value: Any) -> Any:
    """Returns a coordinate as it is or, of a section, its values as text: 'rank=4 share=0.99'."""
    if isinstance(value, Section):
        return " ".join(f"{name}={part}" for name, part in value.model_dump().items())
    return value


def repeated(values: Sequence[Any]) -> list[Any]:
    """Lists the values that occur more than once."""
    return [value for i, value in enumerate(values) if value in values[:i]]
