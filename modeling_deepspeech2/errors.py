"""Errors that are the user's to mend."""


class UserError(ValueError):
    """A mistake of the user, to be shown as one sentence."""
