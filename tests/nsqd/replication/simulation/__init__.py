"""A leader and its followers in one process, from one seed: virtual time, faults of network, processes and disks.

`world.py` is what happens, `checker.py` what must hold. The machines (`leader.py`, `follower.py`) are made of the
product's own classes; only its tasks and sockets are replaced by generators, which are resumed at each step, and by
queues (`network.py`). Run many seeds with `python -m tests.nsqd.replication.simulation --seeds 0-9999`.
"""
