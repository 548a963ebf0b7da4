"""Suggestions for misspelt names: flags, keys of a configuration file, and values out of a fixed set of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["did_you_mean"]

_SIMILARITY = 0.6  # difflib's own threshold: one wrong letter in a word of three is still found


def did_you_mean(word: str, names: Mapping[str, str] | Iterable[str]) -> str:
    """` (did you mean NAME?)` for the name most similar to `word`, or an empty text if none is similar.

    Case does not matter. With a mapping, its keys are compared, and the value of the most similar one is shown.
    """
    import difflib  # here, because only mistakes need it

    shown = names if isinstance(names, Mapping) else {name: name for name in names}
    by_folded = {name.lower(): text for name, text in shown.items()}
    found = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=_SIMILARITY)
    return f" (did you mean {by_folded[found[0]]}?)" if found else ""
