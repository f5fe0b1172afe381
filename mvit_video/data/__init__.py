"""From lists of videos to batches of clips: datasets, sampling, augmentation, loading, and an embedded data set."""
