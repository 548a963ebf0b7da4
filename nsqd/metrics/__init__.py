"""What nsqd finds out about itself, and what it tells others unasked: its pulse, and pushes to statsd."""
