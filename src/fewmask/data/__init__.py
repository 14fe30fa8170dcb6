"""Datasets as domains: their files, splits and masks, joint mini-batches, and procedural scenes."""
