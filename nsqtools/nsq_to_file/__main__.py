"""`python -m nsqtools.nsq_to_file`."""

from nsqtools.nsq_to_file.program import main

if __name__ == "__main__":
    main()
