"""Networks, their checkpoint, and how an encoded image becomes their input. Knows nothing of HTTP or training."""
