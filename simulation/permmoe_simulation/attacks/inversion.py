"""Gradient inversion: what did the images of a site's patients look like?

The gradient of a linear map's weights is the sum over patients of (error at the output) × (input): for one patient a
matrix of rank one whose row space is that patient's image (Zhu et al. 2019, arXiv 1906.08935, need optimisation for
what is closed form here; Phong et al. 2018, doi 10.1109/TIFS.2017.2787987). The pooled encoder starts with such a map.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.federated.modules import ModuleLayout
from permmoe_simulation.attacks.observation import Observation


def reconstruction(seen: Observation, modality: str) -> Float[Tensor, " cell"] | None:
    """The image, up to sign and scale, that explains most of the change of the encoder's map; None where hidden."""
    changes = seen.changes()
    module = f"encoder/{modality}"
    if module not in changes:
        return None
    layout = ModuleLayout.of(seen.model_before())
    part = next(p for p in layout.slices[module] if p.parameter.endswith("project.weight"))
    start = 0
    for other in layout.slices[module]:
        if other == part:
            break
        start += other.size
    change = changes[module][start : start + part.size].view(part.shape)
    rows: Tensor = torch.linalg.svd(change.double(), full_matrices=False).Vh
    return rows[0].float()


def likeness(found: Float[Tensor, " cell"] | None, images: Float[Tensor, "patient cell"]) -> Float[Tensor, " patient"]:
    """|Pearson correlation| of a reconstruction with each patient's image; 0 where nothing was found."""
    if found is None:
        return torch.zeros(len(images))
    centred = images - images.mean(1, keepdim=True)
    own = found - found.mean()
    products: Tensor = (centred @ own).abs()
    lengths: Tensor = torch.linalg.vector_norm(centred, dim=1) * torch.linalg.vector_norm(own)
    return products / lengths.clamp(min=1e-12)
