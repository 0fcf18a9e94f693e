"""lm-eval's requests answered by a model in memory, faster."""
