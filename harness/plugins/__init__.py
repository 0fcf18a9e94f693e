"""Code of others: where it is looked for, how it is read, and what it must say of itself."""
