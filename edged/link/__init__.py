"""The link between the front and its device worker."""
