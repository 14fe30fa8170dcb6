"""UniMatch, the ReCo loss and region scoring in a plain PyTorch loop, with a network of one's own.
The scenes are drawn on demand, so there is nothing to fetch."""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fewmask
from fewmask.acquisition import aggregate, entropy, squares
from fewmask.config import ScenesDomain, UniMatchStrongSettings
from fewmask.config.methods import UniMatchSettings
from fewmask.data.dataset import as_tensors
from fewmask.losses import regional_contrast
from fewmask.methods import UniMatch
from fewmask.randomness import generator
from fewmask.views import strong_view


class Network(nn.Module):
    """Any network will do. A method asks for three things: the domains' names, features, and logits of them."""

    domains = ("rooms",)

    def __init__(self, classes: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
        self.features = nn.Sequential(*convolutions, nn.Conv2d(64, 64, 3, padding=2, dilation=2), nn.ReLU())
        self.head = nn.Conv2d(64, classes, 1)
        self.representation = nn.Conv2d(64, 32, 1)  # for the ReCo loss

    def encode(self, image: Tensor) -> Tensor:
        return self.features(image.float() / 128 - 1)

    def logits(self, features: Tensor, domain: str, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.head(features), size, mode="bilinear")


def main(steps: int) -> float:
    rng, view_rng = torch.Generator().manual_seed(0), generator(0, "view")
    settings = ScenesDomain(layout="scenes", kind="rooms", train=24)
    domain = fewmask.load_domain("rooms", settings).with_labelled(8, seed=0)
    classes = len(domain.space.names)
    model, method = Network(classes), UniMatch(UniMatchSettings(), {"rooms": domain})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def with_strong_views(image, mask):  # the weak view here is the image itself
        strong = [strong_view(image, UniMatchStrongSettings(), view_rng) for _ in range(2)]
        return *as_tensors(image, mask), torch.stack([as_tensors(view, mask)[0] for view in strong])

    labelled = DataLoader(domain.dataset("train"), batch_size=4, shuffle=True, generator=rng)
    pool = DataLoader(domain.dataset("unlabelled", with_strong_views), batch_size=4, shuffle=True, generator=rng)
    for step in range(steps):
        (image, mask), (weak, nothing, strong) = next(iter(labelled)), next(iter(pool))
        images, masks = torch.cat([image, weak]), torch.cat([mask, nothing])
        batch = fewmask.Batch.from_tensors(images, masks, pool=len(image), strong=strong.transpose(0, 1))
        terms = method.step(model, batch, rng)
        features = model.encode(image)
        small = mask[:, ::4, ::4]  # the mask at the features' stride
        with torch.no_grad():
            sure = model.head(features).softmax(1).gather(1, small.long().clamp_max(classes - 1)[:, None])[:, 0]
        contrast = regional_contrast(model.representation(features), small, sure, rng, classes=classes, queries=64)
        loss = sum(terms.values()) + 0.1 * contrast
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}, contrast {contrast.item():.3f}")

    with torch.no_grad():  # which squares of 16×16 pixels of an image of the pool are worth asking for
        logits = model.logits(model.encode(weak[:1]), "rooms", (96, 128))
    scored = aggregate(entropy(logits[None])[0], squares((96, 128), 16))  # [None]: a committee of one
    print("squares worth asking for:", scored.score.argsort()[::-1][:3].tolist())
    return loss.item()


if __name__ == "__main__":
    main(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
