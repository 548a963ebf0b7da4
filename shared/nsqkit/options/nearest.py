"""Suggestions for misspelt names: flags, keys of a configuration file, and values out of a fixed set of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["did_you_mean"]

_SIMILARITY = 0.6  # difflib's own threshold: one wrong letter in a word of three is still found


def did_you_mean(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """` (did you mean NAME?)` for the name most similar to `word`, or an empty text if none is similar.

    Case does not matter. `shown` has the text to show for a name, where it is not the name itself.
    """
    import difflib  # here, because only mistakes need it

    by_folded = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=_SIMILARITY)
    if not found:
        return ""
    name = by_folded[found[0]]
    return f" (did you mean {(shown or {}).get(name, name)}?)"
