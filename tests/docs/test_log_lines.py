"""Log lines that the documents explain: nsqd writes them."""

from __future__ import annotations

import re

import pytest

from tests.deploy.base import ROOT

TABLES = {
    "docs/replication.md": "| log line | what to do |",
    "docs/operations.md": "| line | meaning |",
}
SOURCE = "\n".join(
    path.read_text() for part in ("nsqd", "shared/nsqkit") for path in sorted((ROOT / part).rglob("*.py"))
)
OF_OTHERS = {"Connection refused", "Watchdog timeout", "nsqd_failing_topics > 0"}
"""The operating system, systemd, a metric."""


def lines(document: str) -> list[str]:
    """What is quoted in the first column of the table."""
    table = (ROOT / document).read_text().partition(f"{TABLES[document]}\n")[2].partition("\n\n")[0]
    found = [line for row in table.splitlines()[1:] for line in re.findall("`([^`]+)`", row.split(" | ")[0])]
    return [line for line in found if line not in OF_OTHERS]


@pytest.mark.parametrize("document", TABLES)
def test_explained_lines_are_written(document: str) -> None:
    """Each piece of them, where figures and reasons are put in between."""
    explained = lines(document)
    assert len(explained) > 8
    source = re.sub(r'"\n\s*f?"', "", SOURCE)  # a text of several lines
    for line in explained:
        for piece in filter(None, (piece.strip(" -()") for piece in re.split(r"\.\.\.|[:;]", line))):
            assert piece in source, f"{document}: {line}: no {piece!r}"
