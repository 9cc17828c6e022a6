"""A language model that comes as GGUF is registered as safetensors."""

from pathlib import Path
from uuid import UUID

import gguf
import numpy as np
import pytest

from jobs.problems import BadInputError
from jobs.registry import adding, keeping
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from storage.objects import model_key, sha256_hex
from tests.model_trees import write
from workers.gguf import convert
from workers.weights import WeightsMissingError

WIDTH, INNER, HEADS = 16, 32, 2


def tiny(path: Path, *, without: str = "") -> Path:
    """A Llama of one layer with random weights (but one), and a tokenizer of bytes."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    tokens = [chr(byte) for byte in printable]
    tokens += [chr(256 + number) for number in range(256 - len(printable))]
    tokens += ["he", "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    shapes = {
        **dict.fromkeys(("token_embd", "output"), (len(tokens), WIDTH)),
        **dict.fromkeys(("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"), (WIDTH,)),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        **dict.fromkeys(("blk.0.ffn_gate", "blk.0.ffn_up"), (INNER, WIDTH)),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    shapes.pop(without, None)
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_turned_into_safetensors(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """Once, when it is added: the bucket has what transformers loads, and which file it was."""
    file = tiny(tmp_path / "tiny.gguf")
    spec = ModelSpec(name="tiny", source=f"dir:{tmp_path}", licence="MIT", family="causal_lm")
    card = adding.add(services, spec).card
    assert card.manifest
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= card.manifest.keys()
    assert not any(path.endswith(".gguf") for path in card.manifest)
    digest = sha256_hex(file.read_bytes())
    assert card.details == {"sha256": {"tiny.gguf": digest}}
    assert services.objects.size(model_key(digest)) is None
    assert keeping.check(services, tenant_id, "tiny") == []

    write(tmp_path / "tiny.gguf", file.read_bytes()[:200])
    with pytest.raises(BadInputError, match=r"tiny\.gguf: could not be turned into safetensors"):
        adding.add(services, spec.model_copy(update={"name": "cut"}))
    write(tmp_path / "second.gguf", b"GGUF\x03\0\0\0")
    with pytest.raises(BadInputError, match="more than one set of weights is there"):
        adding.add(services, spec.model_copy(update={"name": "two"}))


def test_one_that_lacks_weights(tmp_path: Path) -> None:
    """It is refused; transformers would make them up."""
    with pytest.raises(WeightsMissingError, match=r"lacks weights: model\.layers\.0\.self_attn\.q"):
        convert(tiny(tmp_path / "part.gguf", without="blk.0.attn_q"), tmp_path / "made")
