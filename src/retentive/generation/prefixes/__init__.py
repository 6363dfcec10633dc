"""States of texts that others begin with, so that the same begin is read once."""

from retentive.generation.prefixes.cache import Prefix, PrefixCache
from retentive.generation.prefixes.reader import PrefixReader

__all__ = ["Prefix", "PrefixCache", "PrefixReader"]
