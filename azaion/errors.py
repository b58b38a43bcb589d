"""The base of every error that is meant for a reader."""


class AzaionError(Exception):
    """Something that the user can understand and mend.

    The message is one or more lines that say what is wrong and what to do next. Every room derives its own base from
    this one. The command line prints it without a traceback.
    """
