"""Methods that rerun or differentiate the training itself: replay."""
