"""Runtime shared by the services: settings, logging, the bus, the puller, health."""
