"""The cluster as it is seen from here: the data model, how answers are merged, the picture, the history."""
