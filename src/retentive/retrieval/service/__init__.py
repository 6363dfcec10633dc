"""A store as a service for programs and assistants: over HTTP, and by the Model Context Protocol."""
