"""Starts Ray on this machine alone, and runs ray_serve.py on it: `serve run` with a port of one's choice."""

import sys

import ray
from ray import serve

from benchmarks.peers.ray_serve import Classifier

ray.init(address="local", include_dashboard=False)
serve.start(http_options={"port": int(sys.argv[1])})
serve.run(Classifier.bind(), route_prefix="/predict", blocking=True)
