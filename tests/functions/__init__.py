"""The function bundle, run as the platforms run it."""
