"""What was seen: frozen values of measurements, machines and outcomes, and the one class that keeps them on disk."""
