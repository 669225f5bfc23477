"""Scenarios from seeds: fleets, traffic and what goes wrong when."""
