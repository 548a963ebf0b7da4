"""The tools around the cluster: to_nsq, nsq_tail, nsq_to_file."""
