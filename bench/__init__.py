"""Benchmarks: a load generator in one process, a broker in another; rows, medians, a table.

`python -m bench` runs everything; README.md in this folder explains the rows and the columns.
"""
