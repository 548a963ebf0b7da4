"""Storage in memory, and storage that fails on purpose: for tests of the log and of everything above it.

Both pass the conformance suite of the real one (`tests/nsqd/testing/test_storage.py`). No daemon imports them.
"""
