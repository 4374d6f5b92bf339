"""Apache Pulsar and StreamNative Cloud."""
