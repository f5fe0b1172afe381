"""Preparing a data set: every video read once and judged, an index and a report written; re-encoding and packing.

The command is mvit_video/prepare.py; `run.prepare_data_set` is the whole of it, the other modules are its steps.
"""
