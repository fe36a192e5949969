"""What a command says of words that it cannot honour."""


class UsageError(Exception):
    """An option that cannot be honoured; its message is the one line that the user sees."""
