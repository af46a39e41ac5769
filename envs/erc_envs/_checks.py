"""Checks of options. Every error names the option, its value and what is allowed."""

from __future__ import annotations

from numbers import Integral, Real


def check_int(
    name: str, value: object, low: int, high: int | None = None, ends: str = "[]"
) -> None:
    """Demand an integer between two bounds; ``ends`` says which of the two are allowed themselves.

    Raises:
        ValueError: not an integer, or outside the bounds.

    >>> check_int("length", 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: length must be an integer >= 1, got 0
    """
    is_int = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_int or not _inside(int(value), low, high, ends):  # type: ignore[call-overload]
        allowed = f">= {low}" if high is None else _interval(low, high, ends)
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")


def check_float(
    name: str, value: object, low: float, high: float, ends: str = "[]", note: str = ""
) -> None:
    """Demand a number between two bounds; ``ends`` says which of the two are allowed themselves.

    Raises:
        ValueError: not a finite real number, or outside the bounds. The message ends what is
            allowed with the ``note``.

    >>> check_float("slip", 2.0, 0, 0.25, "(]")
    Traceback (most recent call last):
        ...
    ValueError: slip must be a number in (0, 0.25], got 2.0
    """
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not _inside(float(value), low, high, ends):  # type: ignore[arg-type]
        raise ValueError(
            f"{name} must be a number {_interval(low, high, ends)}{note}, got {value!r}"
        )


def check_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Demand one of a few values.

    Raises:
        ValueError: another value.

    >>> check_choice("split", "dev", ("train", "test"))
    Traceback (most recent call last):
        ...
    ValueError: split must be 'train' or 'test', got 'dev'
    """
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def _inside(number: float, low: float, high: float | None, ends: str) -> bool:
    above = low <= number if ends[0] == "[" else low < number
    return above and (high is None or (number <= high if ends[1] == "]" else number < high))


def _interval(low: float, high: float, ends: str) -> str:
    return f"in {ends[0]}{low:.10g}, {high:.10g}{ends[1]}"
