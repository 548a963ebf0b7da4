"""nsq_to_nsq: publish the messages of topics again, to other nsqds.

`options` has the flags, `json_filter` says what becomes of a body (pure functions), `destinations` publishes to one
of several nsqds, `relay` brings one topic's messages there and answers them, `program` runs one relay for each topic.
"""

from nsqtools.nsq_to_nsq.program import main

__all__ = ["main"]
