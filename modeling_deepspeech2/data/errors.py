"""The error of all that reads or writes data sets."""

from ..errors import UserError


class DataError(UserError):
    """A data set that cannot be used as asked: which, and why."""
