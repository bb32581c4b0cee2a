"""The error for problems with reading or writing data sets."""

from ..errors import UserError


class DataError(UserError):
    """A data set that cannot be used as asked: which, and why."""
