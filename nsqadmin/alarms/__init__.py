"""Alarms: what is wrong in the cluster, sorted by harm, each with what to do about it.

Theory of operation: after each poll of the cluster `rules` look at the snapshot, at the history, and at what `memory`
noted of earlier snapshots (nodes that are gone, lost messages). They are synchronous and have no clock: the time is in
the snapshot. What they find goes to the `board`, which raises an alarm when it has held for some time, and clears it
when it has not held for some time, so that alarms do not flap. `watch` does this for each snapshot; pages, the API and
the `webhook` read its result.
"""
