"""Examples; the tests run them."""
