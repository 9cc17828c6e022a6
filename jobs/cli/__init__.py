"""The ``presswork`` command: parse, call one function, render."""

from jobs.cli.main import app, main

__all__ = ["app", "main"]
