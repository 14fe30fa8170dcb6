"""What each of two processes does for tests/campaigns/test_campaign_kill.py. Started by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from fewmask.campaigns import campaign
from fewmask.methods import read_config

if __name__ == "__main__":
    campaign(read_config(Path(sys.argv[1])), Path(sys.argv[2]))
