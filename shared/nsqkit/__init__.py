"""NSQ for Python: a client library, `nsqkit.client`, and what nsq-trio's daemons and tools are made of.

`pip install nsqkit` has everything but `nsqkit.service`, which needs the extra `service`.
"""
