"""nsq_to_http: send the messages of a topic to HTTP servers, one request for each message.

`options` has the flags, `sender` makes the requests, `program` consumes messages and finishes or requeues them.
"""

from nsqtools.nsq_to_http.program import main

__all__ = ["main"]
