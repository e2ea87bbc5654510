"""Two photographs that ship with scikit-learn, for a first look at a tokenizer where no images are at hand."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.sizes import Size
from .transforms import fixed_views, to_array


def sample_pictures(size: Size) -> Tensor:
    """Both, resized and centre-cropped as for evaluation, and mirrored: uint8 (4, 3, H, W) of that size."""
    from sklearn.datasets import load_sample_images  # takes a second to import

    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    views = [to_array(view) for picture in pictures for view in fixed_views(picture, size, "flip")]
    return torch.from_numpy(np.stack(views))
