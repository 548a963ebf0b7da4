"""What daemons and tools need besides the client library: an HTTP server, listeners, metrics, the life of a process.

It needs the extra `service`. Nothing outside of this folder imports it: `nsqkit.client` works without.
"""
