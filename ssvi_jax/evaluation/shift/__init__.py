"""Evaluation under shift: models on corrupted and out-of-distribution images."""
