"""Texts into token ids, one way for training, scoring and generation."""
