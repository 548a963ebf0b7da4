"""The body of a message as a file: for administrators, and from nsqds of this cluster only."""

from __future__ import annotations

import pytest

from nsqkit.service.http import Response
from tests.nsqadmin.scripted import ScriptedDaemon, producer, scripted
from tests.nsqadmin.serving import serving

ID = "0123456789abcdef"
PATH = f"/api/messages/t/c/{ID}"


def registry_with(registry: ScriptedDaemon, *nsqds: ScriptedDaemon) -> None:
    registry.on(
        "/nodes", {"producers": [{**producer(each), "topics": [], "tombstones": []} for each in nsqds]}
    )


async def test_a_body_is_a_file() -> None:
    async with scripted() as script:
        nsqd, registry = await script.nsqd(), await script.daemon()
        registry_with(registry, nsqd)
        nsqd.on("/topic/message", Response(200, b"<script>\x00", b"application/octet-stream"))
        async with serving(lookupds=[registry.address]) as browser:
            response = await browser.get(f"{PATH}?node={nsqd.address}&seq=7")
    assert (response.status_code, response.content) == (200, b"<script>\x00")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == f'attachment; filename="{ID}.bin"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert script.calls[-1] == f"GET {nsqd.address}/topic/message?topic=t&id={ID}&format=raw&seq=7"


async def test_nothing_is_asked_of_an_address_that_no_registry_has_named() -> None:
    async with scripted() as script:
        stranger, registry = await script.nsqd(), await script.daemon()
        registry_with(registry)
        async with serving(lookupds=[registry.address]) as browser:
            response = await browser.get(f"{PATH}?node={stranger.address}")
            missing = await browser.get(PATH)
    assert (response.status_code, missing.status_code) == (404, 404)
    assert not any(stranger.address in call for call in script.calls)


async def test_a_node_that_does_not_have_it_is_an_error() -> None:
    async with scripted() as script:
        nsqd, registry = await script.nsqd(), await script.daemon()
        registry_with(registry, nsqd)
        async with serving(lookupds=[registry.address]) as browser:
            response = await browser.get(f"{PATH}?node={nsqd.address}")
    assert response.status_code == 502
    assert "404 Not Found" in response.json()["message"]


@pytest.mark.parametrize("name", ["short", "0123456789abcde%0A", "0123456789abcde%22%0D"])
async def test_what_is_no_id_is_refused(name: str) -> None:
    async with scripted() as script:
        registry = await script.daemon()
        async with serving(lookupds=[registry.address]) as browser:
            response = await browser.get(f"/api/messages/t/c/{name}?node=1.1.1.1:1")
    assert (response.status_code, script.calls) == (400, [])


async def test_only_administrators_get_it() -> None:
    async with scripted() as script:
        registry = await script.daemon()
        async with serving(lookupds=[registry.address], admin_users=["ann"]) as browser:
            response = await browser.get(f"{PATH}?node=1.1.1.1:1", **{"X-Forwarded-User": "eve"})
    assert (response.status_code, script.calls) == (403, [])
