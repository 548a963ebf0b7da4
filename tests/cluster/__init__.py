"""Tests of a whole cluster: several nsqds and nsqlookupds, each a process of its own."""
