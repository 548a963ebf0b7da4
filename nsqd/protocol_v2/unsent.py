"""Which frames a socket never took, when a connection ends."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["unsent_frames"]


def unsent_frames(sending: Sequence[bytes], taken: int) -> list[bytes]:
    """Of the frames that were being sent, those of which the socket took not one byte.

    `taken`: how many bytes of them all, one behind the other, it took.
    """
    for index, frame in enumerate(sending):
        if taken <= 0:
            return list(sending[index:])
        taken -= len(frame)
    return []
