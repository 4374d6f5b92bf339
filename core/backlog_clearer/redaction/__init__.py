"""One place that keeps secrets out of every text that leaves the process."""
