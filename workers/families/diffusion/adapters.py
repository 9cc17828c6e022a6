"""The LoRAs on a pipeline: loaded once, switched on and off, the least used dropped."""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from diffusers.utils import delete_adapter_layers, set_adapter_layers

from workers.families.diffusion.denoiser import Denoiser, sharing
from workers.family import Adapter, AdapterDoesNotFitError
from workers.sickness import sickness_of

KEPT = 8
"""How many stay loaded, those in use among them: each costs memory, and a little time per step."""


class Adapters:
    """Which adapters are on a pipeline, and by that on the siblings that share its weights.

    They are on a denoiser of their own, so that the one that was loaded stays as it is.
    """

    def __init__(self, pipeline: Any, denoiser: Denoiser) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self.module: Any = None
        """The denoiser that has them; None: there have been none."""
        self._loaded: OrderedDict[str, None] = OrderedDict()  # by last use

    def use(self, adapters: Sequence[Adapter]) -> None:
        """Have exactly these on, with their weights.

        Raises:
            AdapterDoesNotFitError: then none is on.
        """
        if not adapters and not self._loaded:
            return
        if self.module is None and self._denoiser.name:
            self.module = sharing(self._denoiser.own)
        with self._denoiser.used(self._pipeline, self.module):
            self._use(adapters)

    def _use(self, adapters: Sequence[Adapter]) -> None:
        self._switch(on=False)
        if not adapters:
            return
        names = [_name(adapter) for adapter in adapters]
        for adapter, name in zip(adapters, names, strict=True):
            if name not in self._loaded:
                self._load(adapter, name)
            self._loaded[name] = None
            self._loaded.move_to_end(name)
        while len(self._loaded) > max(KEPT, len(names)):
            oldest, _ = self._loaded.popitem(last=False)
            unload(self._pipeline, oldest)
        self._switch(on=True)
        self._pipeline.set_adapters(names, [adapter.weight for adapter in adapters])

    def _load(self, adapter: Adapter, name: str) -> None:
        load(self._pipeline, adapter, name)
        self._switch(on=False)  # loading has switched it on

    def _switch(self, *, on: bool) -> None:
        for component in changed(self._pipeline).values():
            set_adapter_layers(component, enabled=on)


def load(pipeline: Any, adapter: Adapter, name: str) -> None:
    """Put the adapter on the pipeline under a name.

    Raises:
        AdapterDoesNotFitError: nothing of it is on.
    """
    if not _takes_loras(pipeline):
        raise AdapterDoesNotFitError("the model takes no LoRAs")
    (file,) = adapter.files.glob("*.safetensors")
    why = "the model has none of the layers that it changes"
    try:
        pipeline.load_lora_weights(
            adapter.files,
            weight_name=file.name,
            adapter_name=name,
            local_files_only=True,
            use_safetensors=True,
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        if sickness_of(error):
            raise
        # Its first line only: the others list every weight.
        why = str(error).strip().partition("\n")[0][:200]
    else:
        if any(name in names for names in pipeline.get_list_adapters().values()):
            return
    unload(pipeline, name)
    raise AdapterDoesNotFitError(f"adapter {adapter.identity}: {why}")


def unload(pipeline: Any, name: str) -> None:
    """Take what was loaded under a name off the pipeline."""
    with warnings.catch_warnings():
        # PEFT then switches another one on; which are on is said before every call.
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        for component in changed(pipeline).values():
            delete_adapter_layers(component, name)


def changed(pipeline: Any) -> dict[str, Any]:
    """The components of the pipeline that have adapters, by their names."""
    names = pipeline.get_list_adapters() if _takes_loras(pipeline) else ()
    return {name: getattr(pipeline, name) for name in names}


def _takes_loras(pipeline: Any) -> bool:
    return hasattr(pipeline, "load_lora_weights")


def _name(adapter: Adapter) -> str:
    """A name that a module may have; an identity may hold dots."""
    return "a" + hashlib.sha256(adapter.identity.encode()).hexdigest()[:16]
