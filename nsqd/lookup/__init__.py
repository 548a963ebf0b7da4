"""nsqd's side of discovery: the connections to the nsqlookupds, and the query for the channels of a new topic."""

from nsqd.lookup.protocol import Heard, WitnessAnswer
from nsqd.lookup.registries import Registries, RoundControl

__all__ = ["Heard", "Registries", "RoundControl", "WitnessAnswer"]
