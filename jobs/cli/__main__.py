"""``python -m jobs.cli``: how our own processes start each other."""

from jobs.cli import main

main()
