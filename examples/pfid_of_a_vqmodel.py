"""pFID of a VQModel of diffusers: how much its decoder suffers when tokens are replaced by near ones.

    python examples/pfid_of_a_vqmodel.py MODEL IMAGES.npz pt_inception-2015-12-05-6726825d.pth

MODEL is what VQModel.from_pretrained takes; IMAGES.npz holds uint8 images (N, H, W, 3) of the model's size.
"""

import sys

import numpy as np
import torch

import robustok
from robustok.evaluation import InceptionFeatures, pfid


class Rows:
    """A VQModel as pFID takes a tokenizer: its latents (B, C, H, W) as rows (B, H * W, C), and square grids of them."""

    similarity = "l2"

    def __init__(self, model):
        self.model, self.codebook = model, model.quantize.embedding.weight

    def encode(self, images):
        return robustok.from_grid(self.model.encode(images).latents)

    def decode(self, z_q):
        return self.model.decode(robustok.to_grid(z_q), force_not_quantize=True).sample


if __name__ == "__main__":
    from diffusers import VQModel

    source, file, weights = sys.argv[1:]
    with np.load(file) as arrays:
        images = torch.from_numpy(arrays[arrays.files[0]]).permute(0, 3, 1, 2)
    result = pfid(Rows(VQModel.from_pretrained(source).eval()), images, InceptionFeatures(weights))
    print(f"pFID {result.mean:.3f}   rFID {result.rfid:.3f}   of {len(images)} images")
