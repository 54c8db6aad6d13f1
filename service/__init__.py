"""Earshot: a speech-to-text microservice that streams Whisper tokens over server-sent events."""

__version__ = "0.1.0"
