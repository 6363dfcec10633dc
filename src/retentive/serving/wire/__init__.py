"""What travels over HTTP, field by field, in the shapes of OpenAI's API."""
