"""The copies of this nsqd on other nodes, and those of other nodes here: `nsqd.replication`, put into the daemon.

An nsqd may play three roles, in any combination: leader (`--replicate-to`: its storage is noted, each follower has a
link, and publishes are answered when enough copies have them), follower (`--replication-address`: it listens for
leaders, keeps their copies, and starts stand-ins on those that it adopts), and stand-in (`--stand-in`: its data path is
a copy). `Copies` is what the daemon sees of them. Without these options none of it exists, and nothing costs anything.
"""

from nsqd.copies.copies import Copies, NotServed
from nsqd.copies.secret import SecretError

__all__ = ["Copies", "NotServed", "SecretError"]
