"""The LoRAs on a pipeline: loaded once, switched on and off, the least used dropped."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from diffusers.utils import delete_adapter_layers, set_adapter_layers

from workers.family import Adapter
from workers.sickness import sickness_of

KEPT = 8
"""How many stay loaded, those in use among them: each costs memory, and a little time per step."""


class AdapterDoesNotFitError(ValueError):
    """The model has no place for the adapter's weights."""


class Adapters:
    """Which adapters are on a pipeline, and by that on the siblings that share its weights."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._loaded: OrderedDict[str, None] = OrderedDict()  # by last use

    def use(self, adapters: Sequence[Adapter]) -> None:
        """Have exactly these on, with their weights.

        Raises:
            AdapterDoesNotFitError: then none is on.
        """
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
            self._delete(oldest)
        self._switch(on=True)
        self._pipeline.set_adapters(names, [adapter.weight for adapter in adapters])

    def _load(self, adapter: Adapter, name: str) -> None:
        if not _takes_loras(self._pipeline):
            raise AdapterDoesNotFitError("the model takes no LoRAs")
        (file,) = adapter.files.glob("*.safetensors")
        why = "the model has none of the layers that it changes"
        try:
            self._pipeline.load_lora_weights(
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
            if any(name in names for names in self._pipeline.get_list_adapters().values()):
                self._switch(on=False)  # loading has switched it on
                return
        self._delete(name)
        raise AdapterDoesNotFitError(f"adapter {adapter.identity}: {why}")

    def _switch(self, *, on: bool) -> None:
        for component in self._components():
            set_adapter_layers(component, enabled=on)

    def _delete(self, name: str) -> None:
        for component in self._components():
            delete_adapter_layers(component, name)

    def _components(self) -> list[Any]:
        """Those that have adapters."""
        names = self._pipeline.get_list_adapters() if _takes_loras(self._pipeline) else ()
        return [getattr(self._pipeline, name) for name in names]


def _takes_loras(pipeline: Any) -> bool:
    return hasattr(pipeline, "load_lora_weights")


def _name(adapter: Adapter) -> str:
    """A name that a module may have; an identity may hold dots."""
    return "a" + hashlib.sha256(adapter.identity.encode()).hexdigest()[:16]
