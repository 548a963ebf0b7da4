"""nsqd's side of discovery: the connections to the nsqlookupds, and the query for the channels of a new topic."""

from nsqd.lookup.registries import Heard, Registries, RoundControl, WitnessAnswer

__all__ = ["Heard", "Registries", "RoundControl", "WitnessAnswer"]
