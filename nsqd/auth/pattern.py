"""The regular expressions of an authorization, by RE2: the library whose language Go's is, and whose time is bounded.

Python's own engine would keep the whole daemon busy for ages on a pattern such as `(a+)+$`. RE2 takes time in
proportion to the name, and never more memory than it is given; what Go refuses (look-around, back references) it
refuses, too. Matching is a search: unanchored, and all that is asked is whether it succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["MAX_TEXT", "Budget", "Pattern", "PatternError", "compile_pattern"]

MAX_TEXT: Final = 64 * 1024  # characters of all the patterns of one answer
MAX_MEMORY: Final = 1 << 20  # bytes, for each pattern

Pattern = Callable[[str], bool]
"""Whether the pattern is found in a name."""


class PatternError(ValueError):
    """No regular expression of this language, or too large a one; the text says why."""


@attrs.define
class Budget:
    """How much text the patterns of one answer may still have."""

    text: int = MAX_TEXT

    def spend(self, text: int) -> None:
        """`PatternError` when nothing is left."""
        self.text -= text
        if self.text < 0:
            raise PatternError(f"regular expressions too large: more than {MAX_TEXT} characters in all")


def compile_pattern(text: str, budget: Budget) -> Pattern:
    """The matcher of a pattern. `PatternError`."""
    import re2  # here, as only those who have auth servers need it

    budget.spend(len(text))
    options = re2.Options()
    options.log_errors, options.max_mem, options.never_capture = False, MAX_MEMORY, True
    try:
        search = re2.compile(text, options).search
    except re2.error as error:
        raise PatternError(_reason(error)) from error
    return lambda name: search(name) is not None


def _reason(error: Exception) -> str:
    """Its words, which it gives in bytes."""
    words = error.args[0] if error.args else error
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
