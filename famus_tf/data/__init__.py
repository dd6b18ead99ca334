"""Datasets, their splits and label noise, and the batches made of them."""
