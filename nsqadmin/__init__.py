"""nsqadmin: shows and steers a whole cluster of nsqds in a browser, and as JSON."""
