"""What Presswork costs, measured against plain alternatives."""
