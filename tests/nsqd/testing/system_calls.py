"""Real descriptors and system calls, for tests: how many are open, none left, answers that a test chooses."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def held_below(root: Path) -> int:
    """Descriptors of this process on files below a folder."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith(f"{root}/")
    return count


class Calls:
    """Stands in for a system call: the next answers are those of the list, then the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *answers: object) -> None:
        self.real: Callable[..., Any] = getattr(os, name)
        self.answers = list(answers)
        self.count = 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        if callable(answer):
            return answer(self.real, *args)
        return self.real(*args, **kwargs)


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Lower the process's limit to a little above what it holds, then take the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        with hog_descriptors():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def hog_descriptors() -> Iterator[None]:
    hogs: list[int] = []
    try:
        with fails_with(errno.EMFILE):
            while True:
                hogs.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for hog in hogs:
            os.close(hog)
