"""Tokenizers: text to token ids and back, behind one protocol (`retentive.text.tokenizer.Tokenizer`)."""
