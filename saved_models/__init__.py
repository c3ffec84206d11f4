"""Trained bundles shipped with kerasdl, one folder each; load one by its name."""
