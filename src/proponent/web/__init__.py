"""The explorer: pages on this machine where people look at answers and training examples, and act on them."""
