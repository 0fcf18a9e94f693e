"""What was asked: options, settings, study files, names of models and data, into run specs; and back."""
