"""NSQ's TCP protocol V2, the broker's side.

`session.py` is the protocol without any I/O; `plain.py` and `streams.py` are two drivers round it.
"""
