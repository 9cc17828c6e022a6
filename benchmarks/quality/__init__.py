"""What `quality` costs, and what it gains."""
