"""The models that the front serves: what is there, what comes and goes."""
