"""Datasets as they lie on disk, cut into hospitals, decoded once."""
