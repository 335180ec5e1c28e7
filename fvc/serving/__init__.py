"""The served model: the bytes of a video in, a verdict out."""
