"""Figures about the daemon: collected (`collect`), and shown as JSON, text, Prometheus metrics and statsd pushes."""
