"""nsq_to_http: hand the messages of a topic to HTTP servers, each message a request.

`options` has the flags, `sender` makes the requests, `program` brings messages to it and answers them.
"""

from nsqtools.nsq_to_http.program import main

__all__ = ["main"]
