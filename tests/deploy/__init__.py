"""The real machines: containers, systemd."""
