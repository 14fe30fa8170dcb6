"""Adaptation from labelled domains, the sources, to a domain without labels, the target: the choice of the target, and
the mapping of the sources' classes to the target's.

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
    """The domain to adapt to: the one that the setting names, or else the only domain without labels.

    Raises ValueError where there is a single domain, where the named one does not exist, and where none is named and
    the choice is not unique.
    """
    if len(domains) < 2:
        raise ValueError(
            f"method.target: adaptation needs labelled domains and a target, and there is only one domain "
            f"({', '.join(domains)}); add another one to `domains`"
        )
    bare = [name for name, domain in domains.items() if not domain.labelled]
    if target is None and len(bare) != 1:
        raise ValueError(f"method.target: missing; name the domain to adapt to, one of {', '.join(domains)}")
    if target is not None and target not in domains:
        raise ValueError(f"method.target: no domain {target!r}; there are {', '.join(domains)}")
    return target or bare[0]


def class_mappings(names: Names, domains: Mapping[str, Domain], target: str) -> dict[str, ClassMapping]:
    """The mapping of each source's classes to the target's. Classes of equal name are mapped to each other, the others
    as `names` says.

    Raises ValueError that lists every class without a mapping, and every name that does not exist.
    """
    sources = [name for name in domains if name != target]
    problems = [
        f"method.classes: {n!r} is no source; these are {', '.join(sources)}" for n in names if n not in sources
    ]
    mappings = {}
    for source in sources:
        try:
            mappings[source] = ClassMapping.by_name(domains[source].space, domains[target].space, names.get(source))
        except ValueError as error:
            problems.append(f"method.classes.{source}: {error}")
        else:
            if not mappings[source].reachable:
                problems.append(f"method.classes.{source}: none of its classes is mapped to {target}; map at least one")
    if problems:
        raise ValueError("\n".join(problems))
    return mappings


def target_values(mappings: Mapping[str, ClassMapping], domains: Mapping[str, Domain]) -> Tensor:
    """(K,256) uint8: the value in the target's classes of each value of a domain's masks. A class that the target lacks
    is void. Every class of the target's own masks is void too, so that nothing is learnt from them."""
    table = torch.full((len(domains), 256), VOID, dtype=torch.uint8)
    table[:, NOT_LABELLED] = NOT_LABELLED
    for k, name in enumerate(domains):
        if name in mappings:
            class_table = mappings[name].table
            table[k, : len(class_table)] = torch.tensor([VOID if c < 0 else c for c in class_table], dtype=torch.uint8)
    return table


@torch.no_grad()
def begin_as_sources(model: UniversalSegmenter, mappings: Mapping[str, ClassMapping], target: str) -> None:
    """Set the weights of each class in the target's head to the mean over the sources' classes that are mapped to it. A
    class that no source has keeps its weights."""
    heads = [model.head(source) for source in mappings]
    target_class = torch.tensor([c for mapping in mappings.values() for c in mapping.table], device=model.mean.device)
    named = torch.nonzero(target_class >= 0).flatten()
    for name, parameter in model.head(target).named_parameters():
        source_values = torch.cat([head.get_parameter(name) for head in heads])[named]
        total = torch.zeros_like(parameter).index_add_(0, target_class[named], source_values)
        count = torch.zeros_like(parameter).index_add_(0, target_class[named], torch.ones_like(source_values))
        parameter.copy_(torch.where(count > 0, total / count.clamp_min(1), parameter))
