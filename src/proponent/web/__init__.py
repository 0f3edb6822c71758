"""The explorer: pages on this machine for browsing explanations and training examples, and for acting on them."""
