"""Writes the results into `docs/performance.md`, between two markers, and the curves into image files."""

from __future__ import annotations

from pathlib import Path

from bench.charts import svg
from bench.report import Results, to_markdown

__all__ = ["BEGIN", "END", "DocsError", "write_docs", "write_pictures"]

PAGE = "performance.md"
PICTURES = "images/performance"
BEGIN = "<!-- begin of what `python -m bench --write-docs` has written -->"
END = "<!-- end of what `python -m bench --write-docs` has written -->"


class DocsError(Exception):
    """The page does not have both markers, once each and in order."""


def write_docs(results: Results, folder: Path) -> None:
    """Replace the text between the markers of `folder`/performance.md, which is checked before the first write."""
    page = folder / PAGE
    new = _replaced(page.read_text(), _results_text(results))
    write_pictures(results, folder / PICTURES)
    page.write_text(new)


def write_pictures(results: Results, folder: Path) -> None:
    """Write one file for each curve, named after it; the folder is created if there are any."""
    for drawn in results.curves:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{drawn.curve.name}.svg").write_text(svg(drawn))


def _results_text(results: Results) -> str:
    """The output of the command, with headings one level lower: the page has its own title."""
    lines = to_markdown(results, PICTURES).splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)


def _replaced(page: str, text: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise DocsError(f"{PAGE} must have these two lines, once each:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
