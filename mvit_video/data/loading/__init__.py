"""From a data set to batches: samples, worker processes, their shared memory, and what happens when one dies."""
