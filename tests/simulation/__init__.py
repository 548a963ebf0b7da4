"""A whole cluster in one process, from one seed: nodes that have copies of one another, registries, clients, faults.

The machines of `tests/nsqd/replication/simulation` are put together to nodes (`node.py`): each is the leader of its own
life, and a follower of others. Registries (`registry.py`) are the product's own, behind its own protocol; what an nsqd
says to them, and when, is in `peers.py`. `cluster.py` is what happens, `faults.py` what goes wrong, `checker.py` what
must hold. Run many seeds with `python -m tests.simulation --seeds 0-9999 --jobs 2`.
"""
