"""Losses: pure functions of tensors. Randomness, where one needs it, is handed in."""
