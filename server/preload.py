"""Imported by the process that workers are forked from: torch, and all of our modules that they run."""

import gc

import models.architectures  # noqa: F401
import server.live_model
import server.worker  # noqa: F401

gc.freeze()  # else a garbage collection in a worker would touch, and so copy, every page of it
