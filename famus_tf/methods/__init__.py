"""What one training step is, one method per file."""
