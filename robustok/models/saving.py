"""What every model here can do beside its interface: be saved to a folder and pushed to a hub, with a model card."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint, State, read_checkpoint, write_checkpoint
from ..core.errors import RunError, UserError
from ..core.files import write_bytes
from ..core.paths import given_path
from .card import model_card


class Pretrained(nn.Module):
    """A model of one family, which its `kind` names and its `config` shapes."""

    kind: str  # as models/registry.py has it: what the config.json of a checkpoint says
    config: Any  # frozen dataclass
    origin: Checkpoint | None = None  # what it was loaded from, without the tensors

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as a folder that `load_tokenizer` and `from_pretrained` open, to the bit.

        In it are config.json, the weights as safetensors and README.md, a model card: licence and source of published
        weights, and of a run's the settings and the figures, if these weights are still the ones that were loaded.
        Teacher and discriminator of a released file are left out: `python -m robustok.convert` keeps them.

        Raises: UserError where the folder holds something already; RunError when the disk is full or not writable.
        """
        folder = given_path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} holds something already: choose another name or remove it")
        state = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        checkpoint = Checkpoint(folder, self.kind, self.config, {"ema": state})
        if self.origin is not None:
            checkpoint = replace(checkpoint, upstream=self.origin.upstream, source=self.origin.source)
            checkpoint.recipe = self.origin.recipe if _unchanged(self.origin, self.kind, state) else {}
        write_checkpoint(checkpoint, self.kind, folder)
        # Beside the files whose sizes the folder vouches for: people write on in a card.
        write_bytes(folder / "README.md", model_card(checkpoint, self.kind).encode())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Weights and model card",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads what `save_pretrained` writes to a Hugging Face repository, which is made where there is none.

        repo_id: "owner/name". The other arguments are those of `huggingface_hub.HfApi`; token None: as `hf auth login`
        left it. Returns the address of the commit. A README.md that is there is replaced.

        Raises: UserError without huggingface_hub (`pip install 'robustok[hub]'`) and for a name that is none; RunError
        where the hub cannot be reached or refuses.
        """
        try:
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        except ImportError:
            raise UserError("push_to_hub needs huggingface_hub: pip install 'robustok[hub]'") from None
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            self.save_pretrained(folder)
            hub = HfApi(token=token)
            try:
                name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
                done = hub.upload_folder(
                    repo_id=name,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                    create_pr=create_pr,
                )
            except HFValidationError as error:
                raise UserError(f"push_to_hub: found {repo_id!r}, expected owner/name: {error}") from error
            except HfHubHTTPError.__bases__ as error:  # its HTTP library's error, and OSError
                raise RunError(f"{repo_id} could not be uploaded: {error}; see `hf auth whoami`") from error
        return str(done.commit_url)


def _unchanged(origin: Checkpoint, kind: str, state: State) -> bool:
    """Whether a model has the averaged weights of the folder of ours that it was loaded from: those are evaluated."""
    if not origin.recipe or not (origin.path / "config.json").is_file():
        return False
    stored = read_checkpoint(origin.path, kind, origin.config).weights.get("ema", {})
    return stored.keys() == state.keys() and all(
        tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]) for name, tensor in stored.items()
    )
