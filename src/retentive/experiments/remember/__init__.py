"""Remembering: a memory around a pretrained model carries a fact from segment to segment."""
