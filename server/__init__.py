"""The service: serves a checkpoint over HTTP. Imports models, and nothing of training."""
