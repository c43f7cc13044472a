"""Speed and padding, measured: ``make bench``."""
