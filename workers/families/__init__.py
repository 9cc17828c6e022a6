"""One folder a family, each with the same file names: load, generate, debug."""
