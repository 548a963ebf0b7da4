"""The lock file, its audit, and the bounds of the dependencies."""

from __future__ import annotations

import re
import runpy
import stat
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.base import ROOT

LOCK = (ROOT / "deploy/requirements.lock").read_text()
PINNED = dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+) ", LOCK))


def requirements() -> list[Requirement]:
    found = runpy.run_path(str(ROOT / "deploy/requirements.py"))["requirements"](ROOT, dev=True)
    return [Requirement(text) for text in found]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("needed", requirements(), ids=lambda needed: needed.name)
def test_lock_has_each_dependency_within_its_bounds(needed: Requirement) -> None:
    pinned = {normal(name): version for name, version in PINNED.items()}
    assert pinned[normal(needed.name)] in needed.specifier, "make lock"


def test_each_package_has_a_hash() -> None:
    entries = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert len(entries) > 50
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+ --hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def fake_audit(folder: Path, output: str) -> str:
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.process
@pytest.mark.parametrize(
    ("output", "code", "text"),
    [
        ("", 0, "audit: skipped, no database of advisories can be reached"),
        ('{"dependencies":[{"name":"a","skip_reason":"?"}]}', 0, "audit: skipped, the database"),
        ('{"dependencies":[{"name":"a","version":"1","vulns":[]}]}', 0, "1 packages, 0 with known"),
        ('{"dependencies":[{"name":"a","version":"1","vulns":[{"id":"CVE-1"}]}]}', 1, "a 1: CVE-1"),
    ],
)
def test_audit_tells_what_it_could_not_look_up(tmp_path: Path, output: str, code: int, text: str) -> None:
    audit = runpy.run_path(str(ROOT / "deploy/audit.py"))["audit"]
    found, said = audit(fake_audit(tmp_path, output), "lock")
    assert found == code
    assert text in said
