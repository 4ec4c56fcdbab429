"""cifar-score: classifies all images in a folder, however many, into one Parquet file; on one machine or on Ray."""
