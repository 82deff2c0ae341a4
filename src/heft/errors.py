"""The one exception that is meant for the person at the keyboard."""


class HeftError(Exception):
    """Something given to heft is wrong: the message says what was given, what was expected and what to do.

    The command line prints the message alone and leaves with status 2. Any other exception is a defect of heft.
    """
