"""What can stop a training run."""


class TrainingError(Exception):
    """A run that cannot start or cannot end. The message is a clear sentence or two: what is wrong and what to do."""
