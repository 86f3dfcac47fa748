"""The laboratory: the loop, checkpoints, records, and run directories."""
