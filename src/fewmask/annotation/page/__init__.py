"""The labelling page: a local server, and a page of plain JavaScript modules that asks a run's open questions."""
