"""Tests with real daemons in processes of their own: killed, stopped, starved of disk, and started again."""
