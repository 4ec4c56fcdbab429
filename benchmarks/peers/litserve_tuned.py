"""LitServe with its own batching, tuned by hand for this load: the best of the batch sizes and timeouts tried."""

import torch

from benchmarks.peers.litserve_stock import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    main(max_batch_size=64, batch_timeout=0.005)
