"""What may be asked to be trained: adapters for models, and models from scratch; no torch here."""
