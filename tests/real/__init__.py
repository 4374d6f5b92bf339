"""Real brokers, started by the test session where the machine can run them."""
