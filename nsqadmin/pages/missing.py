"""The page in place of one that does not exist."""

from __future__ import annotations

from nsqadmin.pages.page_request import Page, PageRequest

__all__ = ["missing_page"]


async def missing_page(_request: PageRequest) -> Page:
    """The page for a path that leads nowhere."""
    return Page("missing.html", "", status=404)
