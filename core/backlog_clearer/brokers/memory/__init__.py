"""A broker in this process and the reference adapter for it."""
