"""What is inside a model file. Knows nothing about formats or requests."""

from service.inspection.describe import ModelDescription, describe

__all__ = ["ModelDescription", "describe"]
