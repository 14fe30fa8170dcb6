"""The datasets of a configuration."""

from __future__ import annotations

from fewmask.config import Config
from fewmask.data.domain import Domain
from fewmask.data.layouts import load_domain


def load_domains(config: Config) -> dict[str, Domain]:
    """The domains of a configuration with their labelled images chosen by its seed. One ValueError lists the faults of
    all domains."""
    domains, problems, keep = {}, [], config.train.cache == "memory"
    for name, settings in config.domains.items():
        try:
            domains[name] = load_domain(name, settings, keep).with_labelled(config.labelled.images, config.seed)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return domains
