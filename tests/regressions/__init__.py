"""Failing tests that prove the findings of a review; each states what should hold."""
