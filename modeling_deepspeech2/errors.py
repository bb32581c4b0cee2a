"""The base class of errors that the user can correct."""


class UserError(ValueError):
    """A mistake of the user, to be shown as one sentence."""
