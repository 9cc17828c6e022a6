"""What a worker loses against the bare pipeline, and what others lose: ``python -m``."""
