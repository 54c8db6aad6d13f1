"""Audio in: bytes to waveforms, waveforms to log-mel spectrograms, recordings to windows."""
