"""The command `nsqd-log`: verify the files of a data path, print the records of one, or make a backup of all."""
