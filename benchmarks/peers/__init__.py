"""The servers that ours is measured against, each as its users would write it. Same checkpoint, same images."""
