"""Imports form no circles and point one way between packages, in all of the project.

Every `import` counts: those for types only (`TYPE_CHECKING`) and those inside functions too.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGES = {
    **{name: PROJECT / name for name in ("nsqd", "nsqlookupd", "nsqadmin", "nsqtools", "bench")},
    "nsqkit": PROJECT / "shared" / "nsqkit",
}

Graph = Mapping[str, set[str]]
"""A name -> the names it depends on."""


def modules(packages: Mapping[str, Path]) -> dict[str, Path]:
    """Full name -> file, of all modules; a package has its own name."""
    found = {}
    for package, folder in packages.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(module: str, path: Path) -> Iterator[str]:
    """Full names of everything that a file imports: modules, and names in modules."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, [base, node.module or ""]))
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def import_graph(packages: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which module of these packages imports which."""
    files = modules(packages)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        names = imported_names(module, path)
        origins = (name if name in files else name.rpartition(".")[0] for name in names)
        graph[module] = {origin for origin in origins if origin in files and origin != module}
    return graph


def circles(graph: Graph) -> set[frozenset[str]]:
    """The largest sets of names that all depend on one another."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set[str](), [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        reachable[start] = seen
    return {
        frozenset(other for other in seen if start in reachable[other])
        for start, seen in reachable.items()
        if start in seen
    }


def siblings(graph: Graph) -> dict[str, dict[str, set[str]]]:
    """Folder -> which of the packages and modules right below it depends on which."""
    folders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, imported in graph.items():
        for other in imported:
            mine, theirs = module.split("."), other.split(".")
            common = 0
            while mine[common : common + 1] == theirs[common : common + 1] != []:
                common += 1
            if common < min(len(mine), len(theirs)):  # else one of them is the package of the other
                folder = ".".join(mine[:common])
                folders[folder][".".join(mine[: common + 1])].add(".".join(theirs[: common + 1]))
    return folders


def two_way(graph: Graph) -> set[frozenset[str]]:
    """Pairs in one folder, at least one of them a package, with imports in both directions."""
    packages = {module.rpartition(".")[0] for module in graph}
    return {
        frozenset({name, other})
        for below in siblings(graph).values()
        for name, others in below.items()
        for other in others
        if name in below.get(other, ()) and {name, other} & packages
    }


def described(found: Iterable[frozenset[str]]) -> list[str]:
    return sorted(" <-> ".join(sorted(names)) for names in found)


@pytest.fixture(scope="module")
def graph() -> Graph:
    found = import_graph(PACKAGES)
    assert len(found) > 250, "most modules were not found"
    return found


def test_no_circle_of_modules(graph: Graph) -> None:
    assert described(circles(graph)) == []


def test_packages_depend_on_one_another_one_way_only(graph: Graph) -> None:
    assert described(two_way(graph)) == []


def test_nothing_of_the_client_library_imports_the_service(graph: Graph) -> None:
    """`pip install nsqkit` brings nothing that only `nsqkit.service` needs."""
    importers = {
        module
        for module, imported in graph.items()
        if module.startswith("nsqkit.") and not module.startswith("nsqkit.service")
        if any(other.startswith("nsqkit.service") for other in imported)
    }
    assert not importers


def test_one_module_knows_the_http_library() -> None:
    """Others make their requests through it."""
    libraries = {"httpx", "httpcore"}
    importers = {
        module
        for module, path in modules(PACKAGES).items()
        if any(name.partition(".")[0] in libraries for name in imported_names(module, path))
    }
    assert importers == {"nsqkit.http_client"}


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    for name, text in {
        "p/__init__.py": "",
        "p/a/__init__.py": "from .one import f",
        "p/a/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b.two",
        "p/a/three.py": "from ..b import two\nfrom p.a import f",
        "p/b/__init__.py": "",
        "p/b/two.py": "def f():\n    from p.a.one import g\n    import os.path",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_every_kind_of_import_is_seen(small_project: Path) -> None:
    small = import_graph({"p": small_project / "p"})
    assert small == {
        "p": set(),
        "p.a": {"p.a.one"},
        "p.a.one": {"p.b.two"},
        "p.a.three": {"p.b.two", "p.a"},
        "p.b": set(),
        "p.b.two": {"p.a.one"},
    }
    assert circles(small) == {frozenset({"p.a.one", "p.b.two"})}
    assert two_way(small) == {frozenset({"p.a", "p.b"})}
