"""Recurrent memory around a causal language model of Hugging Face: the wrapper, its config, state and files."""
