"""The one exception that a user's input may raise."""


class ConfigError(ValueError):
    """A mistake in what was asked: one line that names the field, the rule and the remedy."""
