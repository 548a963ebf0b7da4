"""Tests with client libraries that no one here wrote, against the real daemon."""
