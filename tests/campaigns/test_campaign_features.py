"""A campaign with a frozen encoder computes the features of its images once for all rounds."""

from __future__ import annotations

from pathlib import Path

from campaigns import BY_CHANCE, assert_same_campaign, settings_of
from safetensors.torch import save_file

from fewmask.campaigns.rounds import campaign
from fewmask.config import Config
from fewmask.engine.run import build_network, load_domains
from fewmask.methods import parse_config
from fewmask.runs import RunFolder


def with_cached_features(data: Path, out: Path) -> Config:
    """A campaign of two rounds with an encoder of fixed weights: random ones would differ by the round's seed."""
    plain = settings_of(data, rounds=2, ask=BY_CHANCE, train={"augment": {"scale": [1, 1]}})
    settings = parse_config(plain)
    encoder = build_network(settings.model, load_domains(settings), 0).encoder
    save_file({k: v.contiguous() for k, v in encoder.model.state_dict().items()}, out / "encoder.safetensors")
    plain["model"] |= {"weights": str(out / "encoder.safetensors"), "tuning": {"name": "frozen", "cached": True}}
    return parse_config(plain)


def test_rounds_share_the_features_and_a_second_campaign_is_the_same(data: Path, tmp_path: Path) -> None:
    settings = with_cached_features(data, tmp_path)
    computed: dict[str, int] = {}

    def look(event: object) -> None:
        for path in (tmp_path / "one" / "features").glob("*.npy"):
            computed.setdefault(path.name, path.stat().st_mtime_ns)

    summary = campaign(settings, tmp_path / "one", look)
    assert summary["state"] == "done"
    # Round 0 draws 1 labelled image of each domain, round 1 also those with answers; each has a mirror image.
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "one" / "features").iterdir()}
    assert files == computed
    assert 4 < len(files) <= 16
    assert not any(RunFolder(tmp_path / "one").round(n).features.exists() for n in range(2))
    campaign(settings, tmp_path / "two")
    assert_same_campaign(tmp_path / "one", tmp_path / "two")
    names = {path.name for path in (tmp_path / "two" / "features").iterdir()}
    assert names == files.keys()
