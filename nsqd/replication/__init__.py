"""Copies of a data path on other nodes: what is sent, what is kept, when a publish is safe (docs/replication.md).

    noted_storage  what changes in a data path
    wire        the frames between a leader and a follower
    ship        the leader's side of one follower: what it lacks, as frames
    keep        the follower's side of one life: frames into files
    reconcile   what a follower has, compared with what is here, at the begin of a session
    scrub       what disks have made of it since, and how that is mended

All of it is synchronous: it has no socket and no event loop. It knows the storage, and nothing of topics and channels.
"""
