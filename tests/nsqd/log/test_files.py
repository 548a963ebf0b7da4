"""`FileStorage` beyond the conformance suite: what its descriptor table may not do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nsqd.broker import Broker, BrokerOptions
from nsqd.log.file_storage import FileStorage
from nsqd.log.store import Store, StoreOptions
from nsqkit.wire import encode_message
from tests.nsqd.broker.harness import WALL_NS


def test_publishing_to_many_topics_does_not_sync_in_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More topics than descriptors in the table: an append must not wait for an fdatasync."""
    storage = FileStorage(tmp_path)
    broker = Broker(
        Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS),
        BrokerOptions(),
        0.0,
        WALL_NS,
    )
    topics = [broker.topic(f"t{n}") for n in range(300)]
    inline = 0
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        nonlocal inline
        if threading.current_thread() is threading.main_thread():
            inline += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for topic in topics:
        frame = encode_message(WALL_NS, 1, b"%016x" % broker.store.ids.take(1), b"x")
        topic.publish([frame], len(frame))
    broker.commit()
    storage.close()
    assert inline == 0
