"""An own data source: videos in one folder, whose class stands at the beginning of their file names."""
