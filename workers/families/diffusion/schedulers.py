"""Schedulers by their usual short names, made from the configuration of the model's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import diffusers

_DPM = "DPMSolverMultistepScheduler"
_EULER = "EulerDiscreteScheduler"
_FLOW = "FlowMatchEulerDiscreteScheduler"
_FLOW_PREDICTION = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def _sigmas(*, karras: bool = False, exponential: bool = False) -> dict[str, bool]:
    """Only one of these may be set, and the model's own configuration may have another."""
    return {
        "use_karras_sigmas": karras,
        "use_exponential_sigmas": exponential,
        "use_beta_sigmas": False,
    }


SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ddim": ("DDIMScheduler", {}),
        "ddpm": ("DDPMScheduler", {}),
        "deis": ("DEISMultistepScheduler", {"algorithm_type": "deis", **_sigmas()}),
        "dpm++-2m": (_DPM, {"algorithm_type": "dpmsolver++", **_sigmas()}),
        "dpm++-2m-flow": (_DPM, {"algorithm_type": "dpmsolver++", **_FLOW_PREDICTION}),
        "dpm++-2m-karras": (_DPM, {"algorithm_type": "dpmsolver++", **_sigmas(karras=True)}),
        "dpm++-2m-sde": (_DPM, {"algorithm_type": "sde-dpmsolver++", **_sigmas()}),
        "dpm++-2m-sde-karras": (
            _DPM,
            {"algorithm_type": "sde-dpmsolver++", **_sigmas(karras=True)},
        ),
        "dpm2": ("KDPM2DiscreteScheduler", _sigmas()),
        "dpm2-a": ("KDPM2AncestralDiscreteScheduler", _sigmas()),
        "euler": (_EULER, _sigmas()),
        "euler-a": ("EulerAncestralDiscreteScheduler", {}),
        "euler-karras": (_EULER, _sigmas(karras=True)),
        "flow-match-euler": (_FLOW, _sigmas()),
        "flow-match-euler-exponential": (_FLOW, _sigmas(exponential=True)),
        "flow-match-euler-karras": (_FLOW, _sigmas(karras=True)),
        "heun": ("HeunDiscreteScheduler", _sigmas()),
        "lcm": ("LCMScheduler", {}),
        "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
        "unipc": ("UniPCMultistepScheduler", _sigmas()),
        "unipc-flow": ("UniPCMultistepScheduler", _FLOW_PREDICTION),
    }
)
"""Class and settings by name. Each draws its noise, if any, from the generators of the call."""


def scheduler(name: str, own: Any) -> Any:
    """The scheduler of that name for the model whose own is given; KeyError: no such name."""
    kind, settings = SCHEDULERS[name]
    config = {**own.config, **settings}
    # Two names for the same, in schedulers for flows and in others that can do flows as well.
    shift = own.config.get("flow_shift", own.config.get("shift"))
    if shift is not None:
        config |= {"shift": shift, "flow_shift": shift}
    return getattr(diffusers, kind).from_config(config)


@contextmanager
def chosen(pipeline: Any, name: str | None) -> Iterator[None]:
    """Within, the pipeline has the scheduler of that name; with None its own."""
    if name is None:
        yield
        return
    own = pipeline.scheduler
    pipeline.scheduler = scheduler(name, own)
    try:
        yield
    finally:
        pipeline.scheduler = own
