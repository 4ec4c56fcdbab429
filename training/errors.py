"""What can stop a training run. Each message is one clear sentence or two: what is wrong and what to do.

TrainingError
└── DataError
"""


class TrainingError(Exception):
    """A run that cannot start or cannot end."""


class DataError(TrainingError):
    """Data that cannot be trained on."""
