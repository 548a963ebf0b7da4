"""Tokens that were added, removed or changed are in the audit trail by their names."""

from __future__ import annotations

from pathlib import Path

from nsqkit.access import Access, Scopes, Token, digest_of, new_secret
from nsqkit.access.token_file import add, remove
from nsqkit.audit import AuditTrail, FileChanges
from tests.nsqkit.access.credentials import make_credentials
from tests.nsqkit.audit.reading import lines_in, trail_in


def test_what_has_changed(tmp_path: Path) -> None:
    credentials = make_credentials(tmp_path)
    file = credentials.access.file
    assert file is not None
    with trail_in(tmp_path) as trail:
        changes = FileChanges(trail, "tokens", file.path, lambda: file.tokens.by_name)
        changes.look()
        secret = new_secret()
        remove(file.path, "reader")
        remove(file.path, "admin")
        for name in ("admin", "billing"):
            add(file.path, Token(name, digest_of((secret + name).encode()), Scopes.parse(["read"])))
        assert file.look()()
        changes.look()
        changes.look()
        with open(file.path, "a") as opened:
            opened.write("# a comment\n")
        assert file.look()()
        changes.look()
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["means"], line["on"]) == ("tokens", "itself", {"file": file.path})
    assert line["after"] == {"added": ["billing"], "removed": ["reader"], "changed": ["admin"]}
    assert secret not in (tmp_path / "audit").read_text()


def test_without_a_file_nothing_changes() -> None:
    access = Access()
    FileChanges(AuditTrail(), "tokens", "", lambda: access.tokens.by_name).look()
