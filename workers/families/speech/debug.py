"""``debug-speech``: a whole VITS with tiny seeded weights and two voices. It hums and crackles."""

import json
import string
import tempfile
from pathlib import Path

import torch
from transformers import VitsConfig, VitsModel, VitsTokenizer

SEED = 20_260_101


def build(folder: Path) -> None:
    """Write the model's directory in transformers' layout (safetensors) to ``folder``."""
    tokenizer = _tokenizer()
    config = VitsConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=32,
        flow_size=16,
        spectrogram_bins=9,
        num_speakers=2,
        speaker_embedding_size=8,
        upsample_initial_channel=16,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        depth_separable_num_layers=1,
        duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16,
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        sampling_rate=8000,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = VitsModel(config).eval()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> VitsTokenizer:
    """Letters, digits and what stands between them, as MMS-TTS writes them."""
    tokens = ["<pad>", *string.ascii_lowercase, *string.digits, " ", "'", "-", "<unk>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
        return VitsTokenizer(str(vocabulary), language="eng", phonemize=False)
