"""Run folders: written whole, locked, resumed, found again."""
