"""The state of the cluster: queries to its daemons, merging of their responses, snapshots by polling, history."""
