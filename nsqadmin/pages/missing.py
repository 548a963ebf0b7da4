"""The pages in place of one that does not exist, and of one that is not for the user."""

from __future__ import annotations

from nsqadmin.pages.page_request import Page, PageRequest

__all__ = ["forbidden_page", "missing_page"]


async def missing_page(_request: PageRequest) -> Page:
    """The page for a path that leads nowhere."""
    return Page("missing.html", "", status=404)


async def forbidden_page(request: PageRequest) -> Page:
    """The page for somebody who may not see the one that he has asked for: of other topics, or for a higher role."""
    is_of_his_topics = request.identity.topics.include(request.path_params.get("topic", ""))
    return Page("forbidden.html", "", {"is_of_his_topics": is_of_his_topics}, status=403)
