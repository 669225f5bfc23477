"""What carries messages between the simulated parties."""
