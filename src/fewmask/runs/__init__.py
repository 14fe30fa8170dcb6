"""The run folder: the only room that knows the names, the paths and the keys of the files that a run writes.

All other code reads and writes a run through `RunFolder` and its typed records. This room does not import torch, so
comparing, listing and checking runs is quick.
"""

from fewmask.runs.counts import ImageCounts, read_counts, write_counts
from fewmask.runs.folder import LOCK, SUMMARY, RunFolder, Spent
from fewmask.runs.metrics import StepLine, ValidationLine
from fewmask.runs.reading import FORMAT
from fewmask.runs.records import (
    Budget,
    CampaignSummary,
    Change,
    Changes,
    Description,
    Entry,
    Forecast,
    Hardware,
    Heads,
    Normalisation,
    Round,
    Scores,
    Summary,
    Validation,
)
from fewmask.runs.settings import MOVABLE, changed_settings, differences, essence, flat, only_roots, settings_of

__all__ = [
    "FORMAT",
    "LOCK",
    "MOVABLE",
    "SUMMARY",
    "Budget",
    "CampaignSummary",
    "Change",
    "Changes",
    "Description",
    "Entry",
    "Forecast",
    "Hardware",
    "Heads",
    "ImageCounts",
    "Normalisation",
    "Round",
    "RunFolder",
    "Scores",
    "Spent",
    "StepLine",
    "Summary",
    "Validation",
    "ValidationLine",
    "changed_settings",
    "differences",
    "essence",
    "flat",
    "only_roots",
    "read_counts",
    "settings_of",
    "write_counts",
]
