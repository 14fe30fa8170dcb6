"""Views of an image: pure functions of pixels and a generator."""
