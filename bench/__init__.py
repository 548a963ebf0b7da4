"""Speed of the broker: a load generator of its own process, a broker in another, rows, medians, a table.

`python -m bench` runs everything; README.md here tells what each row means and how to read the figures.
"""
