"""What keeps the house in order, one service a file; `sweeper` runs them."""
