"""How models of diffusers and transformers are loaded: quietly, and in which precision."""

import diffusers
import torch
import transformers

from workers.family import Device


def quieten() -> None:
    """Let neither library write what only concerns us.

    Both print the words of a prompt that they cut off: personal data, in our log.
    """
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def dtype_on(device: Device) -> torch.dtype:
    """In fp32 on a CPU, where the same seed is to give the same output alone and in a batch."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
