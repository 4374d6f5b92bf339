"""Apache Kafka and brokers that speak its protocol."""
