"""Text from outside: folders, text files, JSONL and parquet, as documents and problems."""
