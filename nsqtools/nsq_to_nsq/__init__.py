"""nsq_to_nsq: publish the messages of topics to other nsqds.

`options` has the flags, `json_filter` filters bodies (pure functions), `destinations` publishes to one of
several nsqds, `relay` transfers the messages of one topic, `program` runs one relay for each topic.
"""

from nsqtools.nsq_to_nsq.program import main

__all__ = ["main"]
