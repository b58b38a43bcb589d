"""The errors of the daemon's rooms. Each message is for the user: what is wrong, and what to do."""

from azaion.errors import AzaionError


class SupervisorError(AzaionError):
    """The daemon cannot do what it should."""


class ProcessError(SupervisorError):
    """A process cannot be watched or signalled."""
