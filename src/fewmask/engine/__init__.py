"""One training loop for every method; evaluation, prediction and the folder of a run."""
