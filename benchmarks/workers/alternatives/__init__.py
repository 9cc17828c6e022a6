"""What people write instead, each as its own documentation tells them to."""
