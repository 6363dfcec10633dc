"""The paths of the API: each file is one kind of request, from its fields to its answer."""
