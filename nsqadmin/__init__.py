"""nsqadmin: the web console of a cluster of nsqds, and its JSON API."""
