"""What a model is: its specification, its network, how it reads intensities, and its file."""
