"""The data sets `motion` (videos) and `shapes` (images), generated: for the quickstart and the tests."""
