"""Pure functions: intervals, tests, calibration."""
