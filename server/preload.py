"""What workers are forked with: torch, and all of ours that they run."""

import gc

import models.architectures  # noqa: F401
import server.live_model
import server.worker  # noqa: F401

gc.freeze()  # a collection in a worker would touch, and so copy, every page of it
