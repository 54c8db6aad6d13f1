"""From a waveform to a stream of events: windows, prompts, text, segments. No torch, no HTTP."""
