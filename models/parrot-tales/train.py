"""Train the bundled model: `python train.py --run DIR`. It may be cut at any time and goes on from its
last checkpoint.

The rate warms up, stays, and falls in a line over the last part of `--tokens`; a later run with more tokens
goes on from `stable.pt`, which is the state before the fall. Matrices are learnt with Muon, embeddings and
norms with AdamW. Invariant: a checkpoint is written at the border of a chunk and says which chunk comes
next.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import Batch, chunk_batches
from export import FOLDER, export, shape_for
from make_tokenizer import VOCABULARY
from model import Decoder
from muon import Muon
from perplexity import load
from tokenizers import Tokenizer
from torch import Tensor, nn

TOKENS_OF_CHUNK = 35_000
"""About; the chunks that an earlier run has seen are left out."""
WARM_TOKENS = 60_000
BASE_RATE = {"muon": 0.005, "adamw": 0.003}
SHORT_TOKENS = 2_600_000
GROWTH_TOKENS = 50_000


@dataclass(slots=True)
class Progress:
    """Where the run stands; owned by `Run`."""

    chunk: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Run:
    """A training run in a folder. Owns the model, its optimizers and the progress."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        assert self.tokenizer.get_vocab_size() <= VOCABULARY
        torch.manual_seed(args.seed)
        self.model = Decoder(shape_for(self.tokenizer)).to(args.device)
        matrices = [p for p in self.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        self.muon = Muon(matrices, lr=BASE_RATE["muon"], weight_decay=0.1)
        self.adamw = torch.optim.AdamW(others, lr=BASE_RATE["adamw"], betas=(0.9, 0.98), weight_decay=0.0)
        self.progress = Progress(tokens=args.start_tokens, chunk=args.start_tokens // TOKENS_OF_CHUNK)
        if args.start:
            self.model.load_state_dict(load(args.start).state_dict())
        self.hidden = torch.compile(self.model, dynamic=True) if args.compile else self.model
        self.stopping = False
        self.decay_start = int(args.tokens * (1 - args.decay))
        self._load()

    def _load(self) -> None:
        path = self.args.run / "last.pt"
        stable = self.args.run / "stable.pt"
        if (
            stable.exists()
            and path.exists()
            and self._tokens_of(stable) < self.decay_start < self._tokens_of(path)
        ):
            path = stable  # the run had begun to fall and shall now go on longer
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
        self.progress = Progress(**state["progress"])

    def _tokens_of(self, path: Path) -> int:
        return int(torch.load(path, weights_only=True, mmap=True)["progress"]["tokens"])

    def save(self) -> None:
        """last.pt always; stable.pt until the rate begins to fall; the exported folder."""
        progress = self.progress
        state = {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adamw": self.adamw.state_dict(),
            "progress": {
                "chunk": progress.chunk,
                "step": progress.step,
                "tokens": progress.tokens,
                "seconds": progress.seconds,
            },
        }
        names = ["last.pt", "stable.pt"] if progress.tokens <= self.decay_start else ["last.pt"]
        for name in names:
            torch.save(state, self.args.run / f".{name}")
            os.replace(self.args.run / f".{name}", self.args.run / name)
        export(self.model, self.tokenizer, self.args.out)

    def stop(self) -> None:
        """Ask the run to save and end at the next border of a chunk."""
        self.stopping = True

    def rate(self) -> float:
        """The part of the base rate that holds now: warm-up, plateau, fall."""
        tokens, total = self.progress.tokens, int(self.args.tokens)
        warm = min(1.0, (tokens - self.args.start_tokens + 1) / WARM_TOKENS)
        fall = max(0.0, tokens - self.decay_start) / max(1, total - self.decay_start)
        return warm * max(0.02, 1.0 - fall)

    def limit(self) -> int:
        """How many sentences texts may have: short ones first, since they teach the same skills for less."""
        grown = max(0, self.progress.tokens - SHORT_TOKENS) // GROWTH_TOKENS
        return int(min(self.args.limit, 4 + grown))

    def learn(self, batches: list[Batch]) -> tuple[float, float]:
        """One step over some batches. Returns the answers' mean weighted loss and their share of right tokens."""
        weight = sum(float(batch.weights.sum()) for batch in batches)
        total = right = answers = 0.0
        for batch in batches:
            loss, hit, count = self._loss(batch)
            (loss.sum() / weight).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()[batch.answers].sum())
            right += hit
            answers += count
        rate = self.rate()
        nn.utils.clip_grad_norm_(self.adamw.param_groups[0]["params"], 1.0)
        for optimizer, name in ((self.muon, "muon"), (self.adamw, "adamw")):
            for group in optimizer.param_groups:
                group["lr"] = BASE_RATE[name] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(batch.tokens for batch in batches)
        return total / answers, right / answers

    def _loss(self, batch: Batch) -> tuple[Tensor, float, float]:
        device = self.args.device
        places, targets, weights = (t.to(device) for t in (batch.places, batch.targets, batch.weights))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.args.bf16):
            states = self.hidden(batch.ids.to(device)).flatten(0, 1)[places]
            scores = self.model.logits(states)
        loss = F.cross_entropy(scores.float(), targets, reduction="none") * weights
        hit = (scores.detach().argmax(-1) == targets)[batch.answers.to(device)]
        return loss, float(hit.sum()), float(hit.numel())

    def steps(self) -> Iterator[tuple[float, float]]:
        """Learn chunk after chunk until the tokens are used up; saves at chunk borders."""
        saved = last = time.monotonic()
        while self.progress.tokens < self.args.tokens and not self.stopping:
            batches = chunk_batches(
                self.tokenizer, self.args.seed, self.progress.chunk, self.limit(), self.args.batch_tokens
            )
            for start in range(0, len(batches), self.args.batches):
                yield self.learn(batches[start : start + self.args.batches])
            self.progress.chunk += 1
            now = time.monotonic()
            self.progress.seconds += now - last
            last = now
            if now - saved > self.args.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and log")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the exported model")
    parser.add_argument("--tokens", type=int, default=60_000_000)
    parser.add_argument(
        "--decay", type=float, default=0.25, help="part of the tokens over which the rate falls"
    )
    parser.add_argument("--start", type=Path, help="an exported model whose weights are the first ones")
    parser.add_argument("--start-tokens", type=int, default=0, help="how many tokens those have seen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=36, help="sentences in the longest texts, about")
    parser.add_argument(
        "--batch-tokens", type=int, default=2048, help="padded tokens that are computed at once"
    )
    parser.add_argument("--batches", type=int, default=2, help="of those in a step")
    parser.add_argument("--save-seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="autocast; off on a CPU without bf16",
    )
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    run = Run(args)
    signal.signal(signal.SIGTERM, lambda *_: run.stop())
    run.save()
    _train(run, args.run / "log.jsonl")


def _train(run: Run, log_path: Path) -> None:
    losses: list[float] = []
    rights: list[float] = []
    started, tokens = time.monotonic(), run.progress.tokens
    with log_path.open("a") as log:
        for loss, right in run.steps():
            losses.append(loss)
            rights.append(right)
            if run.progress.step % 20 == 0:
                line = {
                    "step": run.progress.step,
                    "tokens": run.progress.tokens,
                    "chunk": run.progress.chunk,
                    "loss": round(sum(losses) / len(losses), 4),
                    "right": round(sum(rights) / len(rights), 4),
                    "rate": round(run.rate(), 3),
                    "tokens_per_s": round((run.progress.tokens - tokens) / (time.monotonic() - started)),
                }
                print(json.dumps(line), file=log, flush=True)
                losses, rights = [], []
                started, tokens = time.monotonic(), run.progress.tokens


if __name__ == "__main__":
    main()
