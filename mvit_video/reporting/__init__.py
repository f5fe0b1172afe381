"""A page about runs: what they were told, how they went, what they get wrong, and how several of them compare."""
