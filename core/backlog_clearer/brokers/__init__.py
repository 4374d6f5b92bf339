"""One package for each broker, which implements `source` for it."""
