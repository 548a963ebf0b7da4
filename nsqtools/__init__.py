"""The command line tools: to_nsq, nsq_tail, nsq_to_file, nsq_stat, nsq_peek, nsq_to_http, nsq_to_nsq."""
