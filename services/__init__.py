"""The services: scheduler asks, fetcher answers, cacher remembers, gateway shows."""
