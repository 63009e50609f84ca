"""What edged does on an NVIDIA GPU, checked and written down on one page."""
