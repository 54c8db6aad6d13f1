"""Earshot: a speech-to-text microservice that streams Whisper tokens over server-sent events."""
