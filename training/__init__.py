"""Makes a checkpoint. Knows models; knows nothing of the server."""
