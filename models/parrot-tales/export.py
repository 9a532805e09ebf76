"""Write the model as a Hugging Face folder that `transformers` and the server load unchanged.

Invariant: each file appears at once (written aside, then renamed), so a reader never sees half a file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from model import Decoder, Shape
from prompts import END, PAD
from safetensors.torch import save
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent


def export(model: Decoder, tokenizer: Tokenizer, folder: Path = FOLDER) -> None:
    """config.json, generation_config.json and model.safetensors (bf16, tied embeddings once)."""
    end = tokenizer.token_to_id(END)
    pad = tokenizer.token_to_id(PAD)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **model.shape.fields(),
    }
    generation = {"eos_token_id": end, "pad_token_id": pad, "do_sample": True, "temperature": 0.8}
    weights = {
        f"model.{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
    }
    _replace(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    _replace(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    _replace(folder / "generation_config.json", (json.dumps(generation, indent=2) + "\n").encode())


def shape_for(tokenizer: Tokenizer) -> Shape:
    return Shape(vocab_size=tokenizer.get_vocab_size())


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.writing")
    aside.write_bytes(data)
    os.replace(aside, path)
