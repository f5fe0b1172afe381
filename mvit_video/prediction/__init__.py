"""What a model says of files that have no labels: which files, their classes, long videos in windows, the results."""
