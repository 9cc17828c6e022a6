"""The LoRAs on a language model: put on once, switched on and off, the least used taken off."""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft import LoraConfig
from peft.functional import delete_adapter, set_adapter, set_peft_model_state_dict
from peft.mapping import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from jobs.registry import peft_settings
from jobs.registry.peft_settings import PeftSettings
from workers.family import Adapter, AdapterDoesNotFitError
from workers.sickness import sickness_of

KEPT = 8
"""How many stay on a model, those in use among them: each costs memory."""
WRAPPED = "base_model.model."
"""How PEFT begins the names of weights that it saves."""
_PREFIX = "lora_"


class Adapters:
    """Which adapters are on a model.

    What is switched off does not compute: the model then gives bit by bit what it gave before.
    """

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, None] = OrderedDict()  # by last use

    def use(self, model: Any, adapters: Sequence[Adapter]) -> None:
        """Have exactly these on, with their weights.

        Raises:
            AdapterDoesNotFitError: then none is on.
        """
        if self._loaded:
            _switch(model, on=False)
        if not adapters:
            return
        names = [_name(adapter) for adapter in adapters]
        for adapter, name in zip(adapters, names, strict=True):
            if name not in self._loaded:
                _load(model, adapter, name)
            self._loaded[name] = None
            self._loaded.move_to_end(name)
        while len(self._loaded) > max(KEPT, len(names)):
            oldest, _ = self._loaded.popitem(last=False)
            _unload(model, oldest)
        for adapter, name in zip(adapters, names, strict=True):
            for layer in _layers(model):
                layer.set_scale(name, adapter.weight)
        _switch(model, on=True)
        set_adapter(model, names, inference_mode=True)


def _load(model: Any, adapter: Adapter, name: str) -> None:
    (file,) = adapter.files.glob("*.safetensors")
    settings = peft_settings.read({path.name: path for path in adapter.files.iterdir()})
    tensors = {key.removeprefix(WRAPPED): one for key, one in load_file(file).items()}
    layers = sorted({key.partition(f".{_PREFIX}")[0] for key in tensors})
    has = {layer for layer, _ in model.named_modules()}
    foreign = [layer for layer in layers if layer not in has]
    if foreign:
        raise AdapterDoesNotFitError(f"adapter {adapter.identity}: there is no layer {foreign[0]}")
    try:
        _put_on(model, tensors, _config(settings, layers), name)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        if sickness_of(error):
            raise
        _unload(model, name)
        _switch(model, on=False)
        # Its first line only: the others list every weight.
        why = str(error).strip().partition("\n")[0][:200]
        raise AdapterDoesNotFitError(f"adapter {adapter.identity}: {why}") from error
    _switch(model, on=False)


def _config(settings: PeftSettings, layers: list[str]) -> LoraConfig:
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        target_modules=layers,
        rank_pattern=settings.rank_pattern,
        alpha_pattern=settings.alpha_pattern,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        inference_mode=True,
    )


def _put_on(model: Any, tensors: Mapping[str, Tensor], config: LoraConfig, name: str) -> None:
    with warnings.catch_warnings():
        # Several on one model is what we are after; and PEFT sees itself to GPT-2's layers.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        inject_adapter_in_model(config, model, name)
    found = set_peft_model_state_dict(model, dict(tensors), name)
    lacking = [key for key in found.missing_keys if _PREFIX in key and f".{name}." in key]
    if found.unexpected_keys or lacking:
        wrong = [*found.unexpected_keys, *lacking][0]
        raise ValueError(f"{wrong} is not in the adapter as it is in the model")


def _unload(model: Any, name: str) -> None:
    with warnings.catch_warnings():
        # PEFT then switches another one on; which are on is said before every call.
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        delete_adapter(model, name, prefix=_PREFIX)
    getattr(model, "peft_config", {}).pop(name, None)


def _switch(model: Any, *, on: bool) -> None:
    for layer in _layers(model):
        layer.enable_adapters(on)


def _layers(model: Any) -> Iterator[LoraLayer]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _name(adapter: Adapter) -> str:
    """A name that a module may have; an identity may hold dots."""
    return "a" + hashlib.sha256(adapter.identity.encode()).hexdigest()[:16]
