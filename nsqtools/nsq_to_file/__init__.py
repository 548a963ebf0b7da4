"""nsq_to_file: write the messages of topics to files. A message is finished once it is synced to disk.

`options` has the flags, `names` makes file names, `files` writes one topic's files (synchronous, without an
event loop), `archive` feeds them from a consumer, and `program` runs one archive for each topic.
"""

from nsqtools.nsq_to_file.program import main

__all__ = ["main"]
