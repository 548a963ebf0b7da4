"""`python -m nsqtools.nsq_to_http`."""

from nsqtools.nsq_to_http.program import main

if __name__ == "__main__":
    main()
