"""JetStream objects of the system: streams, consumers, buckets and quota ledgers, and how they are provisioned."""
