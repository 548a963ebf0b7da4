"""For tests: a broker in a thread (`in_process.py`, `plugin.py`), and storage in memory and with fault injection.

Both kinds of storage pass the same conformance suite as `FileStorage` (`tests/nsqd/testing/test_storage.py`). No
daemon imports this package.
"""
