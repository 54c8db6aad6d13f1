"""Continuous batching: which windows are encoded and which rows take the next decoder step."""
