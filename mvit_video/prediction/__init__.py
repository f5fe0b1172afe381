"""What a model says of files that have no labels: which files, their classes or objects, long videos, the results."""
