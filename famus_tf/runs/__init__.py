"""What surrounds the steps of a run: evaluation, checkpoints, records."""
