"""Apache Iggy."""
