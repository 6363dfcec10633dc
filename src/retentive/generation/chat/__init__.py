"""Conversations with a model: their turns, their files, and what ``retentive chat`` is told."""

from retentive.generation.chat.conversation import Answer, Chat, Conversation

__all__ = ["Answer", "Chat", "Conversation"]
