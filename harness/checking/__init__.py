"""The regression gate: did a candidate get worse than its baseline?"""
