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
    """The device's precision, as torch calls it."""
    return torch.bfloat16 if device.dtype == "bfloat16" else torch.float32
