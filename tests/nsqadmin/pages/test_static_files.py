"""Vendored files are unchanged and have their licences; our own files name no other host."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from nsqadmin.pages.render import TEMPLATES
from nsqadmin.static_files import SHIPPED, file_versions

OWN = {
    "actions.js",
    "charts.js",
    "console.css",
    "counter.js",
    "live.js",
    "mark.svg",
    "shared_stream.js",
    "theme.js",
    "vendored.json",
}
MANIFEST = json.loads((SHIPPED / "vendored.json").read_text())
PACKAGES = {package["name"]: package for package in MANIFEST["packages"]}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_vendored_files_are_those_of_the_manifest(name: str) -> None:
    package = PACKAGES[name]
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
    assert package["licence"]
    assert package["licence_file"] in package["files"]
    for file, origin in package["files"].items():
        assert hashlib.sha256((SHIPPED / file).read_bytes()).hexdigest() == origin["sha256"], file


def test_every_file_is_our_own_or_in_the_manifest() -> None:
    foreign = {file for package in PACKAGES.values() for file in package["files"]}
    assert {path.name for path in SHIPPED.iterdir()} == OWN | foreign


def test_the_version_of_a_file_changes_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    before = file_versions(tmp_path)
    (tmp_path / "a.js").write_text("2")
    assert set(before) == {"a.js"}
    assert file_versions(tmp_path) != before


@pytest.mark.parametrize("path", sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_templates_have_no_scripts_or_styles_in_markup(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle\s*=", text)
    assert not re.search(r"\son[a-z]+\s*=", text)
    assert not re.search(r"<style|javascript:", text)
    assert "|safe" not in text.replace(" ", "")
    assert re.findall(r"<script(?! src=\"{{ static\()[^>]*>", text) in (
        [],
        ['<script nonce="{{ nonce }}">'],
    )


@pytest.mark.parametrize("name", sorted(OWN - {"vendored.json", "mark.svg"}))
def test_scripts_name_no_other_host_and_make_no_markup_from_text(name: str) -> None:
    text = (SHIPPED / name).read_text()
    assert not re.search(r"(https?:)?//[a-z0-9]+\.[a-z]", text)
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in text, way


def test_the_files_of_the_first_load_are_small() -> None:
    needed = [path for path in SHIPPED.iterdir() if path.suffix in (".js", ".css", ".woff2", ".svg")]
    assert sum(path.stat().st_size for path in needed) < 170_000
