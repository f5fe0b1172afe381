"""An own task, data source, model and metric in one small package: how good is a video, from 0 to `levels` - 1?

docs/extending.md explains it file by file.
"""
