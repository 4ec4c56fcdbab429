"""LitServe with its own batching, tuned by hand for this load: the best of the settings tried.

Tried on two cores at 64 connections: batches of at most 8, 16, 32 and 64, timeouts of 1, 2, 5 and 10 ms, one to four
HTTP processes, one and two workers, `fast_queue`; always with one torch thread.
"""

from collections.abc import Sequence

import torch

from benchmarks.peers.litserve_stock import ClassifierAPI, serve


class TunedAPI(ClassifierAPI):
    def batch(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.sizes = [len(pixels) for pixels in inputs]
        return torch.cat(list(inputs))

    def unbatch(self, output: torch.Tensor) -> Sequence[torch.Tensor]:
        return output.split(self.sizes)


if __name__ == "__main__":
    serve(TunedAPI(max_batch_size=8, batch_timeout=0.002), http_processes=2)
