"""The registry daemon, in which consumers look up the nsqds that have a topic."""
