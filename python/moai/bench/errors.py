"""The two ways the job stops with one line for the user instead of a traceback."""


class BadInput(Exception):
    """What was asked for cannot be done; the message says what to ask for instead. Exit status 2."""

    status = 2


class RunFailed(Exception):
    """The run was well asked for but could not go on. Exit status 1."""

    status = 1
