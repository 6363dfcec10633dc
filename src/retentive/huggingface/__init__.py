"""One wrapper over the registry for users of transformers."""
