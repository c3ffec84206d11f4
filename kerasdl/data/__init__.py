"""Data: sources, encoding and batches."""
