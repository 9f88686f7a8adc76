"""What the services share: settings, logging, the bus, the puller, health."""
