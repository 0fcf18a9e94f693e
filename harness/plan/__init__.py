"""Before anything runs: what is done already, learning rates to try, forecasts, what can be found wrong."""
