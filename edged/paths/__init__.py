"""Paths through blocks: models merged into a trie, and plans of mixed batches. It is all pure."""
