"""Storage in memory, and storage with fault injection: for tests of the log and of everything above it.

Both pass the same conformance suite as `FileStorage` (`tests/nsqd/testing/test_storage.py`). No daemon imports them.
"""
