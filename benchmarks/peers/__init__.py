"""Earshot beside other Whisper engines, on the same weights, audio and machine."""
