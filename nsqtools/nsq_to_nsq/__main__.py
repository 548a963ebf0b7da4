"""`python -m nsqtools.nsq_to_nsq`."""

from nsqtools.nsq_to_nsq.program import main

if __name__ == "__main__":
    main()
