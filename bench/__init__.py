"""The harness: what a meta-gradient method is given, how it is run, measured and recorded."""
