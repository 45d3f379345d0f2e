"""The exception for invalid user input."""


class InputError(ValueError):
    """An invalid file, value or setting.

    The message is one line: the file or key, what was expected, what was found. Scripts print it
    to standard error and exit with status 2 (``ov_piano.cli``).
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # quoted text may contain line breaks
