"""Which videos a data set has: sources, lists, the index file of a prepared data set, and tar shards."""
