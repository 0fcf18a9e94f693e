"""medtune: train, evaluate and compare ways of fine-tuning medical language models."""

__version__ = "0.1.0"
