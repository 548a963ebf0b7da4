"""The log has two locks: one for the syncs of each descriptor, one for the names of each topic's files."""

from __future__ import annotations

import ast
from pathlib import Path

import nsqd.log

KINDS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier"}


def test_where_there_are_locks() -> None:
    """Their classes say who takes them, and why. Everything else is the event loop's alone, or handed over whole."""
    found = [
        (path.stem, node.attr)
        for path in sorted(Path(nsqd.log.__file__).parent.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in KINDS
        if isinstance(node.value, ast.Name) and node.value.id == "threading"
    ]
    # One of those in file_storage.py is the annotation of the other.
    assert found == [("file_storage", "Lock"), ("file_storage", "Lock"), ("topic_log", "Lock")]
