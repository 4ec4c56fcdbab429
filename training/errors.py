"""What can stop a training run."""


class TrainingError(Exception):
    """A run that cannot start or cannot end. The message is a clear sentence or two: what is wrong and what to do."""


def first_line(error: Exception) -> str:
    """Of what an error says, for a sentence of ours; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
