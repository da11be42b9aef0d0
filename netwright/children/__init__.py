"""Children: an architecture turned into an `nn.Module`."""
