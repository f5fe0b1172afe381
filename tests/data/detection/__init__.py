"""Tests of detection data."""
