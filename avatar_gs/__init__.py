"""avatar_gs: a sentence (and, if you like, photos) in, a posable Gaussian-splat avatar out."""

__version__ = "0.1.0"
