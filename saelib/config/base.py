"""Types that all parts of the configuration share."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


class Section(BaseModel):
    """A part of the configuration. It is immutable, and refuses keys that it does not know, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _no_truth_value(value: Any) -> Any:
    """Refuses `true` and `false`, which pydantic would accept as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


Count = Annotated[int, Field(gt=0, le=10**12), BeforeValidator(_no_truth_value)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Names become folders: no separators, no leading dot, nothing that confuses a shell or a file system.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=80)]


def by_name(value: Any) -> Any:
    """Turns a name such as `relu`, which is short for `{kind: relu}`, into a mapping."""
    return {"kind": value} if isinstance(value, str) else value


Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
"""Device that torch computes on."""
Positive = Annotated[float, Field(gt=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
