"""The data set `motion`: eight kinds of motion as generated videos, for the quickstart and the tests."""
