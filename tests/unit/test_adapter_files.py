"""What is read from an adapter's file, and which adapters may share batches."""

from pathlib import Path
from typing import Any

import pytest

from jobs.registry.adapters import MAX_BANK_RANK, examine, target_of
from tests.model_trees import tensors, write

Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PLAIN = {f"{Q}.lora_A.weight": (4, 8), f"{Q}.lora_B.weight": (8, 4)}
KOHYA = {
    f"{KOHYA_Q}.lora_down.weight": (4, 8),
    f"{KOHYA_Q}.lora_up.weight": (8, 4),
    f"{KOHYA_Q}.alpha": (),
}


def details(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the card says of an adapter with such tensors."""
    files = {"lora.safetensors": tensors(folder / "lora.safetensors", shapes)}
    found, problems = examine(files)
    assert not problems
    return found


@pytest.mark.parametrize("shapes", [PLAIN, KOHYA])
def test_a_plain_lora_is_bankable(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Matrices on linear layers of the denoiser, by PEFT's names and by kohya's."""
    found = details(tmp_path, shapes)
    assert found == {"rank": 4, "layers": 1, "targets": ["to_q"], "bank": True}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({f"{Q}.lora_magnitude_vector": (8,)}, "it is a DoRA"),
        (
            {
                "unet.conv_in.lora_A.weight": (4, 4, 3, 3),
                "unet.conv_in.lora_B.weight": (8, 4, 1, 1),
            },
            "it changes convolutions",
        ),
        (
            {
                "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 8),
                "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (8, 4),
            },
            "it changes a text encoder",
        ),
        (
            {
                "unet.a.to_k.lora_A.weight": (MAX_BANK_RANK + 1, 8),
                "unet.a.to_k.lora_B.weight": (8, MAX_BANK_RANK + 1),
            },
            f"its rank is over {MAX_BANK_RANK}",
        ),
    ],
)
def test_what_the_bank_refuses(tmp_path: Path, more: dict[str, tuple[int, ...]], why: str) -> None:
    """Whatever is more than that, with the reason."""
    found = details(tmp_path, {**PLAIN, **more})
    assert (found["bank"], found["bank_refused"]) == (False, why)


def test_a_lokr(tmp_path: Path) -> None:
    """It is registered, but not for the bank."""
    layer = "diffusion_model.layers.0.attention.to_q"
    shapes = {f"{layer}.lokr_w1": (2, 2), f"{layer}.lokr_w2": (4, 4), f"{layer}.alpha": ()}
    assert details(tmp_path, shapes) == {
        "layers": 1,
        "targets": ["attention.to_q"],
        "bank": False,
        "bank_refused": "it is a LoKr",
    }


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({**KOHYA, f"{KOHYA_Q}.dora_scale": (8, 1)}, "is a DoRA as kohya writes it"),
        ({"a.lokr_w1": (2, 2), "a.lokr_t2": (2, 2, 3, 3)}, "'a.lokr_t2', which no LoKr has"),
        ({"a.hada_w1_a": (2, 2)}, "'a.hada_w1_a', which no LoRA has"),
    ],
)
def test_what_would_be_read_wrongly(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    """What the libraries would leave out, or cannot read, is refused."""
    files = {"lora.safetensors": tensors(tmp_path / "lora.safetensors", shapes)}
    _, (problem,) = examine(files)
    assert said in str(problem)


def test_targets() -> None:
    """A layer is known by its name in its block, whoever wrote it."""
    names = {
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0": "to_out.0",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0": "to_out_0",
        "transformer.single_transformer_blocks.3.norm.linear": "norm.linear",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2": "ff.net.2",
        "time_embedding.linear_1": "time_embedding.linear_1",
    }
    assert {name: target_of(name) for name in names} == names


LANGUAGE_LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
LANGUAGE = {
    f"{LANGUAGE_LAYER}.lora_A.weight": (4, 8),
    f"{LANGUAGE_LAYER}.lora_B.weight": (8, 4),
}
SETTINGS: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}


def language_files(folder: Path, **changes: Any) -> dict[str, Path]:
    """A LoRA for a language model, as PEFT saves it."""
    return {
        "adapter_model.safetensors": tensors(folder / "adapter_model.safetensors", LANGUAGE),
        "adapter_config.json": write(folder / "adapter_config.json", SETTINGS | changes),
    }


def test_a_language_models(tmp_path: Path) -> None:
    """It is read as PEFT has written it, and shares batches with none but its like."""
    found, problems = examine(language_files(tmp_path), "causal_lm")
    assert not problems
    assert found == {
        "rank": 4,
        "layers": 1,
        "targets": ["self_attn.q_proj"],
        "bank": False,
        "bank_refused": "it is for a language model",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type: Input should be 'LORA'"),
        ({"r": 0}, "r: Input should be greater"),
        ({"bias": "all"}, "bias is 'all': only plain LoRAs"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ],
)
def test_what_changes_more_of_a_language_model(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """What would change the model itself, or needs more than the matrices, is refused."""
    _, (problem,) = examine(language_files(tmp_path, **changes), "causal_lm")
    assert problem.file == "adapter_config.json"
    assert said in problem.message


def test_a_language_models_without_its_settings(tmp_path: Path) -> None:
    """How strong it is stands in no tensor."""
    files = language_files(tmp_path)
    del files["adapter_config.json"]
    _, (problem,) = examine(files, "causal_lm")
    assert "is missing: a LoRA for a language model comes as PEFT saves it" in problem.message
