"""The console in a real browser, against real daemons: every page, every action, in light and dark, wide and narrow."""
