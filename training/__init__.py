"""The recipe that made `service/builtin`. Knows nothing about serving; see training/README.md."""
