"""Bytes on disk: weights and states as safetensors, configs as JSON."""
