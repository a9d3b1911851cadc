"""Which device? Target cards, bundle, verification, latency."""
