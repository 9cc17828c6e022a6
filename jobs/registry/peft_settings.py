"""What a LoRA for a language model says of itself, beside its weights: PEFT's own file."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.problems import from_validation

FILE = "adapter_config.json"

_UNTOUCHED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "alora_invocation_tokens": (None,),
        "arrow_config": (None,),
        "bias": ("none",),
        "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
        "kasa_config": (None,),
        "layer_replication": (None,),
        "lora_bias": (None, False),
        "megatron_config": (None,),
        "modules_to_save": (None, []),
        "monteclora_config": (None,),
        "target_parameters": (None, []),
        "trainable_token_indices": (None, [], {}),
        "use_bdlora": (None, False),
        "use_qalora": (None, False),
        "velora_config": (None,),
    }
)
"""Fields of PEFT's ``LoraConfig`` by which more than pairs of matrices would change the model, or
the model itself would be changed for good (PiSSA, OLoRA and the like): with what they may be."""


class PeftSettings(BaseModel):
    """How the weights are meant: which layers they are for is read from the weights themselves."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _check_pattern(cls, value: object) -> object:
        return {} if value is None else value

    @model_validator(mode="after")
    def _check_rest(self) -> "PeftSettings":
        for name, value in (self.model_extra or {}).items():
            if name in _UNTOUCHED and value not in _UNTOUCHED[name]:
                raise ValueError(f"{name} is {value!r:.80}: only plain LoRAs and DoRAs are taken")
        return self


def read(files: Mapping[str, Path]) -> PeftSettings:
    """What the adapter's file says, of the adapter's ``files`` by name.

    Raises:
        ValueError: it is missing, or of an adapter that is no LoRA, or more than one.
    """
    if FILE not in files:
        raise ValueError(
            f"is missing: a LoRA for a language model comes as PEFT saves it, {FILE} beside the "
            "weights"
        )
    try:
        return PeftSettings.model_validate_json(files[FILE].read_bytes())
    except ValidationError as error:
        problems = from_validation(error, PeftSettings)
        raise ValueError("; ".join(str(problem) for problem in problems)) from error
