"""The cluster on hosts of their own, and a network between them that breaks."""
