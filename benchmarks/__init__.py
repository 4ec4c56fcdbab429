"""The measurements behind every figure that the README quotes, each with its command."""
