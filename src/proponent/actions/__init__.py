"""What people do with scores: label errors, decisions, and the data set that follows."""
