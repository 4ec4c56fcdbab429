"""LitServe with its own batching, tuned by hand for this load: the best of the settings tried.

Tried on two cores at 64 connections: batches of at most 8, 16, 32 and 64, timeouts of 1, 2, 5 and 10 ms, one to four
HTTP processes, one and two workers, `fast_queue`; always with one torch thread.
"""

import torch

from benchmarks.peers.litserve_stock import ClassifierAPI, serve


class TunedAPI(ClassifierAPI):
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        super().setup(device)


if __name__ == "__main__":
    serve(TunedAPI(max_batch_size=8, batch_timeout=0.002), http_processes=2)
