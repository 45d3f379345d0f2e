"""The one exception for what a user gave and we cannot use."""


class InputError(ValueError):
    """A file, value or setting that cannot be used.

    The message is one line: which file or key, what was expected, what was found. Scripts
    print it to standard error and exit with status 2 (``ov_piano.cli``).
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # what it quotes may hold line breaks
