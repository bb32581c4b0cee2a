"""Export to ONNX: graphs from the waveform to the logits, and the folder that other programs read."""
