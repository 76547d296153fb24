"""Words typed for verbs that are not sweeps: numbers, lists and folders, each checked with one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vanbench.errors import UserError, unknown

__all__ = ["numbers", "positive", "thread_counts", "words"]


def numbers(option: str, text: str, allowed: Sequence[int]) -> tuple[int, ...]:
    """A comma list of whole numbers out of a few."""
    return tuple(int(word) for word in words(option, text, [str(each) for each in allowed]))


def words(option: str, text: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """A comma list of words out of a few, each once."""
    listed = [each.strip() for each in text.split(",")]
    names = list(allowed)
    for each in listed:
        if each not in names:
            raise unknown(option, each, names)
    return tuple(dict.fromkeys(listed))


def positive(option: str, value: float) -> float:
    """A number above zero."""
    if not 0 < value < float("inf"):
        raise UserError(f"{option} {value:g} is not a number above 0")
    return value


def thread_counts(text: str) -> tuple[int | str, ...]:
    """A comma list of thread counts, or auto."""
    found: list[int | str] = []
    for word in text.split(","):
        word = word.strip()
        if word != "auto" and not (word.isdigit() and 1 <= int(word) <= 4096):
            raise UserError(f"threads {word!r} is not a whole number from 1 to 4096, or auto")
        found.append(word if word == "auto" else int(word))
    return tuple(dict.fromkeys(found))
