"""cifar-score: the classes of all images of a folder, of any size, as one Parquet file; on one machine or on Ray."""
