"""Networks: encoders and decoders of segmentation-models-pytorch and timm, and the universal segmenter around them."""

from fewmask.models.torchvision_shim import import_torchvision

import_torchvision()
