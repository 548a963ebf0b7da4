"""The registry daemon: tells consumers which nsqd has a topic."""
