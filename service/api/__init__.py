"""The HTTP interface. It knows nothing about torch, and nothing about settings."""
