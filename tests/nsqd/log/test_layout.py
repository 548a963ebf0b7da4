"""How the log is laid out: its modules import one way, and where it has locks."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import nsqd.log

LOG = Path(nsqd.log.__file__).parent
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier"}


def trees() -> dict[str, ast.Module]:
    return {path.stem: ast.parse(path.read_text()) for path in sorted(LOG.glob("*.py"))}


def test_imports_point_one_way() -> None:
    """Imports for types count too."""
    graph = {
        name: {
            node.module.removeprefix("nsqd.log.")
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nsqd.log.")
        }
        for name, tree in trees().items()
    }
    order = list(TopologicalSorter(graph).static_order())  # `CycleError` for a circle
    assert order.index("storage") < order.index("topic_log") < order.index("store")


def test_there_are_two_locks() -> None:
    """The one of a descriptor's syncs, and the one of a topic's names; their classes say who takes them."""
    found = [
        (name, node.attr)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in LOCKS
        if isinstance(node.value, ast.Name) and node.value.id == "threading"
    ]
    # One of those in file_storage.py is the annotation of the other.
    assert found == [("file_storage", "Lock"), ("file_storage", "Lock"), ("topic_log", "Lock")]
