"""From labelled domains, the sources, to one without labels, the target: which it is, and how its classes are theirs.

Shapes: B rows of a batch · H×W pixels · K domains · C_k classes of domain k.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID, ClassMapping
from fewmask.models.universal import UniversalSegmenter

Names = Mapping[str, Mapping[str, str | None]]


def target_of(target: str | None, domains: Mapping[str, Domain]) -> str:
    """The domain to adapt to: that of the setting, or else the one that has no label.

    Raises ValueError where there is nothing to adapt from, no such domain, or none that goes without saying.
    """
    if len(domains) < 2:
        raise ValueError(
            f"method.target: adaptation goes from labelled domains to another one, and there is but one "
            f"({', '.join(domains)}); add it to `domains`"
        )
    bare = [name for name, domain in domains.items() if not domain.labelled]
    if target is None and len(bare) != 1:
        raise ValueError(f"method.target: missing; name the domain to adapt to, one of {', '.join(domains)}")
    if target is not None and target not in domains:
        raise ValueError(f"method.target: no domain {target!r}; there are {', '.join(domains)}")
    return target or bare[0]


def class_mappings(names: Names, domains: Mapping[str, Domain], target: str) -> dict[str, ClassMapping]:
    """By source, how its classes are the target's: those of equal name, and as `names` says of the others.

    Raises ValueError that lists every class that is left open, and every name that does not exist.
    """
    sources = [name for name in domains if name != target]
    problems = [
        f"method.classes: {n!r} is no source; these are {', '.join(sources)}" for n in names if n not in sources
    ]
    found = {}
    for source in sources:
        try:
            found[source] = ClassMapping.by_name(domains[source].space, domains[target].space, names.get(source))
        except ValueError as error:
            problems.append(f"method.classes.{source}: {error}")
        else:
            if not found[source].reachable:
                problems.append(f"method.classes.{source}: no class of it is one of {target}'s; map at least one")
    if problems:
        raise ValueError("\n".join(problems))
    return found


def target_values(mappings: Mapping[str, ClassMapping], domains: Mapping[str, Domain]) -> Tensor:
    """(K,256) uint8: what each value of a domain's masks is in the target's. A class that the target lacks is void, and
    so is every class of the target's own masks, which nobody is to learn from."""
    table = torch.full((len(domains), 256), VOID, dtype=torch.uint8)
    table[:, NOT_LABELLED] = NOT_LABELLED
    for k, name in enumerate(domains):
        if name in mappings:
            to = mappings[name].table
            table[k, : len(to)] = torch.tensor([VOID if c < 0 else c for c in to], dtype=torch.uint8)
    return table


@torch.no_grad()
def begin_as_sources(model: UniversalSegmenter, mappings: Mapping[str, ClassMapping], target: str) -> None:
    """Make each class of the target's head the mean of those of the sources' heads that mean it; one that no source
    has stays as it is."""
    heads = [model.head(source) for source in mappings]
    to = torch.tensor([c for mapping in mappings.values() for c in mapping.table], device=model.mean.device)
    named = torch.nonzero(to >= 0).flatten()
    for name, own in model.head(target).named_parameters():
        theirs = torch.cat([head.get_parameter(name) for head in heads])[named]
        total = torch.zeros_like(own).index_add_(0, to[named], theirs)
        count = torch.zeros_like(own).index_add_(0, to[named], torch.ones_like(theirs))
        own.copy_(torch.where(count > 0, total / count.clamp_min(1), own))
