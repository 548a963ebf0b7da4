"""The regular expressions of an authorization, by RE2: the library whose language Go's is, and whose time is bounded.

Python's own engine would keep the whole daemon busy for ages on a pattern such as `(a+)+$`. RE2 takes time in
proportion to the name, and never more memory than it is given; what Go refuses (look-around, back references) it
refuses, too. Matching is a search: unanchored, and all that is asked is whether it succeeds.

One `Budget` covers the patterns of an answer: their number, their text and their compiled size. So no answer takes more
than some tens of milliseconds to compile, or to check a name against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["MAX_PATTERNS", "MAX_SIZE", "MAX_TEXT", "Budget", "Pattern", "PatternError", "compile_pattern"]

MAX_PATTERNS: Final = 1000  # of one answer
MAX_TEXT: Final = 64 * 1024  # characters of all the patterns of one answer
MAX_SIZE: Final = 64 * 1024  # instructions of all its compiled patterns, 16 bytes each
MAX_MEMORY: Final = 1 << 20  # bytes, for the longest pattern
MIN_MEMORY: Final = 64 * 1024  # bytes, for any pattern
MEMORY_OF_CHARACTER: Final = 1024  # bytes, in addition, for each of its characters

# A class of Unicode characters takes 0.1 to 0.3 ms to compile, as long as some hundreds of other characters.
_UNICODE_CLASS_COST: Final = 512  # characters

Pattern = Callable[[str], bool]
"""Whether the pattern is found in a name."""


class PatternError(ValueError):
    """No regular expression of this language, or too large a one; the text says why."""


@attrs.define
class Budget:
    """How much the patterns of one answer may still take."""

    patterns: int = MAX_PATTERNS
    text: int = MAX_TEXT
    size: int = MAX_SIZE

    def spend_text(self, text: str) -> None:
        """Another pattern. `PatternError` when nothing is left."""
        self.patterns -= 1
        if self.patterns < 0:
            raise PatternError(f"too many regular expressions: more than {MAX_PATTERNS}")
        self.text -= len(text) + _UNICODE_CLASS_COST * (text.count("\\p") + text.count("\\P"))
        if self.text < 0:
            raise PatternError(f"regular expressions too large: more than {MAX_TEXT} characters in all")

    def spend_size(self, size: int) -> None:
        """Its compiled size. `PatternError` when nothing is left."""
        self.size -= size
        if self.size < 0:
            raise PatternError(f"regular expressions too large: more than {MAX_SIZE} instructions in all")


def compile_pattern(text: str, budget: Budget) -> Pattern:
    """The matcher of a pattern. `PatternError`."""
    import re2  # here, as only those who have auth servers need it

    budget.spend_text(text)
    options = re2.Options()
    options.max_mem = min(MAX_MEMORY, MIN_MEMORY + MEMORY_OF_CHARACTER * len(text))
    options.log_errors, options.never_capture = False, True
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        raise PatternError(_reason(error)) from error
    budget.spend_size(compiled.programsize)
    search = compiled.search
    return lambda name: search(name) is not None


def _reason(error: Exception) -> str:
    """Its words, which it gives in bytes."""
    words = error.args[0] if error.args else error
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
