"""The way of a token: corpus -> pack -> order -> batch."""
