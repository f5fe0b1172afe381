"""Preparing a data set: read every video once, write an index and a report; on request re-encode, and pack into shards.

The command is mvit_video/prepare.py. `pipeline.prepare_data_set` is the whole of it; the other modules are its steps.
"""
