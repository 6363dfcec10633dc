"""Self-speculation: which tokens are drafted, and how a row goes on with drafts."""
