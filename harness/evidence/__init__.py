"""Runs held against each other: groups, audits, comparisons, gates, baselines, anchors."""
