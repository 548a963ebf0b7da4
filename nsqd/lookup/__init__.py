"""nsqd's side of discovery: the connections to the nsqlookupds, and the question which channels a new topic has."""

from nsqd.lookup.registries import Registries, Rounds

__all__ = ["Registries", "Rounds"]
