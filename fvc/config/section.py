"""What every section of `params.yaml` has in common."""

from typing import Any, ClassVar


class Section:
    """A part of `params.yaml`: its fields are all there is, and no text is taken for a number."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }


def require(condition: bool, message: str) -> None:
    """Refuse a value.

    Raises:
        ValueError: The condition does not hold.
    """
    if not condition:
        raise ValueError(message)
