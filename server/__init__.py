"""Answers HTTP with a checkpoint. Knows models; knows nothing of training."""
