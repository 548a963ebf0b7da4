"""The walls of the house: what may import what, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nsqd

ROOT = Path(nsqd.__file__).parent.parent
DAEMONS = ("nsqd", "nsqlookupd", "nsqadmin")
ASYNC_OR_NETWORK = {"trio", "socket", "select", "selectors", "asyncio", "httptools", "httpx", "anyio", "ssl"}

ALLOWED_BELOW_THE_BROKER = {
    "nsqd/broker": {"nsqd.broker", "nsqd.log", "nsqkit.wire", "nsqkit.logging"},
    "nsqd/log": {"nsqd.log", "nsqkit.wire"},
}


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("folder", ALLOWED_BELOW_THE_BROKER)
def test_the_core_knows_no_network_and_no_event_loop(folder: str) -> None:
    files = sources(folder)
    assert len(files) > 5
    # `__main__.py` is a program of its own that uses the package, not a part of what the core imports.
    for path in files:
        for module in imports(path):
            assert module.split(".")[0] not in ASYNC_OR_NETWORK, f"{path} imports {module}"


@pytest.mark.parametrize("folder", ALLOWED_BELOW_THE_BROKER)
def test_imports_point_downwards(folder: str) -> None:
    ours = ("nsqkit", *DAEMONS)
    for path in sources(folder):
        if path.name == "__main__.py":
            continue
        for module in imports(path):
            if module.split(".")[0] in ours:
                allowed = ALLOWED_BELOW_THE_BROKER[folder]
                assert any(within(module, package) for package in allowed), f"{path} imports {module}"


@pytest.mark.parametrize("daemon", DAEMONS)
def test_no_daemon_imports_another(daemon: str) -> None:
    for path in sources(daemon):
        for module in imports(path):
            others = [other for other in DAEMONS if other != daemon and within(module, other)]
            assert not others, f"{path} imports {module}"


def test_shared_code_imports_no_daemon() -> None:
    files = sources("shared/nsqkit")
    assert files
    for path in files:
        for module in imports(path):
            assert not any(within(module, daemon) for daemon in DAEMONS), f"{path} imports {module}"


def test_an_import_inside_a_function_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.nsqd.broker.test_walls.ROOT", tmp_path)
    path = tmp_path / "nsqd" / "broker" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "def f():\n    import trio.lowlevel\n    from ..log import state\n    from socket import socket\n"
    )
    assert sorted(imports(path)) == ["nsqd.log", "socket", "trio.lowlevel"]
