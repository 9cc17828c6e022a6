"""``debug-caption``: a BLIP with tiny seeded weights and some words. It writes gibberish."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

SEED = 20_260_104
SIDE_PX = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]")
WORDS = (
    "a an and apple background blue cup green in is mug of on photo picture pot red round table "
    "the two white with yellow"
)


def build(folder: Path) -> None:
    """Write the model's directory (safetensors) and its processor to ``folder``."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS.split()])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 (a word)
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, unknown, start, end, begin = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        unk_token=unknown,
        cls_token=start,
        sep_token=end,
        bos_token=begin,
    )
    # Far more than usual: what it writes shall depend on what it sees.
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    text = {
        "vocab_size": len(vocabulary),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 512,
        "bos_token_id": vocabulary[begin],
        "eos_token_id": vocabulary[end],
        "sep_token_id": vocabulary[end],
        "pad_token_id": vocabulary[pad],
    }
    vision = {"image_size": SIDE_PX, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = BlipForConditionalGeneration(
            BlipConfig(text_config={**size, **text}, vision_config={**size, **vision})
        )
    # It would end at once with many a picture.
    model.text_decoder.cls.predictions.bias.data[: len(SPECIAL)] = -100
    model.eval().save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
