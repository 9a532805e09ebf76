"""Random-weight checkpoints in real shapes, whose text survives a round trip through the tokenizer.

Outputs have to be comparable as text and as ids across modes, so the head's rows are zero except for pieces that
are one whole " word": greedy decoding then meets neither EOS nor half a character, every token makes a chunk, and
encode(decode(ids)) == ids (asserted here once, and by the drivers on what they get).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.stats import RESULTS

SPECIAL = ("<pad>", "<s>", "</s>")


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-shaped decoder."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    positions: int = 8192


TINY = Shape("tiny", 256, 6, 8, 4, 768, 4096)  # 6 M parameters
SMALL = Shape("small", 768, 12, 12, 4, 2048, 16384)  # 101 M parameters
MEDIUM = Shape("medium", 1024, 28, 16, 8, 3072, 32768)  # 0.5 B, for a GPU
LARGE = Shape("large", 4096, 32, 32, 8, 14336, 32768)  # 7 B, for a GPU; 15 GB on disk
SHAPES = {shape.name: shape for shape in (TINY, SMALL, MEDIUM, LARGE)}


def checkpoint(shape: Shape, seed: int = 0) -> Path:
    """The folder of the checkpoint, made when it does not exist yet."""
    folder = RESULTS / "checkpoints" / f"{shape.name}-{seed}"
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = make_tokenizer(shape.vocab, seed)
        tokenizer.save(str(folder / "tokenizer.json"))
        _write_configs(folder, shape)
        _write_weights(folder, shape, words(tokenizer), seed)
    return folder


def words(tokenizer: Tokenizer) -> list[int]:
    """The ids of pieces that are one whole word with the space before it, and are found again as such."""
    return [
        id
        for piece, id in sorted(tokenizer.get_vocab().items())
        if piece.startswith("Ġ") and piece[1:].isalpha() and tokenizer.encode(f" {piece[1:]}").ids == [id]
    ]


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def make_tokenizer(vocab_size: int, seed: int) -> Tokenizer:
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(vocab_size)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = (" ".join(rng.choices(vocabulary, k=200)) for _ in range(400))
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _write_configs(folder: Path, shape: Shape) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))


def _write_weights(folder: Path, shape: Shape, word_ids: list[int], seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    width, kv_width = shape.hidden, shape.hidden // shape.heads * shape.kv_heads

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5).bfloat16()

    tensors = {"model.embed_tokens.weight": matrix(shape.vocab, width).mul_(width**0.5)}
    for index in range(shape.layers):
        prefix = f"model.layers.{index}"
        sizes = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv_width, width),
            "self_attn.v_proj": (kv_width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (shape.ffn, width),
            "mlp.up_proj": (shape.ffn, width),
            "mlp.down_proj": (width, shape.ffn),
        }
        tensors |= {f"{prefix}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = torch.ones(width, dtype=torch.bfloat16)
    head = torch.zeros(shape.vocab, width, dtype=torch.bfloat16)
    head[word_ids] = matrix(len(word_ids), width)
    tensors |= {"model.norm.weight": torch.ones(width, dtype=torch.bfloat16), "lm_head.weight": head}
    save_file(tensors, folder / "model.safetensors")
