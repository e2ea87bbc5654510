"""Without a GPU, Triton's kernels run on the CPU, in its interpreter: it decides at its import, so this comes first."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
