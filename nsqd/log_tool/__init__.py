"""The command `nsqd-log`: verify the files of a data path, or print the records of one. It never writes."""
