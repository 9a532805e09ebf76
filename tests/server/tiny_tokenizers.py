"""Small tokenizers of the two common schemes, trained on the spot, and model folders around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIALS = ["<s>", "</s>", "<|user|>"]
CORPUS = ["Hello world, this is a small text about things.", "你好 é ü — it's ok! <0x"] * 20


def byte_level(*, add_prefix_space: bool = False, decoder: decoders.Decoder | None = None) -> Tokenizer:
    """GPT-2's scheme, as Llama 3 and Qwen use it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=SPECIALS)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def looking_ahead() -> Tokenizer:
    """Byte level, split as newer models do it: words take their 's and 'll along."""
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    others = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(f"{words}|{others}"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=SPECIALS)
    tokenizer.train_from_iterator([*CORPUS, *["it's we'll they're 123"] * 20], trainer)
    return tokenizer


def metaspace(*, through_normalizer: bool = False) -> Tokenizer:
    """SentencePiece's scheme with byte fallback, as Llama 2 and Mistral use it, in both of its spellings."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    space = pre_tokenizers.Metaspace(prepend_scheme="first")
    if through_normalizer:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=["<unk>", *SPECIALS, *bytes_])
    tokenizer.train_from_iterator([text.replace("你好", "") for text in CORPUS], trainer)
    return _bytes_as_ordinary_tokens(tokenizer)


def _bytes_as_ordinary_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer takes bytes only as special tokens; real models have them as ordinary ones."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))


def word_piece() -> Tokenizer:
    """A scheme whose tokens are not plain bytes."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", *SPECIALS])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def with_bos(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def folder(path: Path, tokenizer: Tokenizer, **files: Mapping[str, object]) -> Path:
    """A model folder: `tokenizer.json`, and each keyword as NAME.json."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path
