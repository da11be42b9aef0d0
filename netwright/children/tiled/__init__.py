"""Convolutions of bfloat16 in the processor's tiles (AMX) or vectors, forward and both ways back.

Images are an address and steps in bytes from image to image, row to row and pixel to pixel;
channels are adjacent. Weights are dense [O, kh, kw, C].
"""
