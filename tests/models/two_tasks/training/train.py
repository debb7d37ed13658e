"""Trains the two_tasks model from nothing; `python3 train.py --output DIR` runs all phases.

Phase 1 raises the sequence length from 64 to 2048 as accuracy allows; phase 2 moves to the
layout of the evaluation (context, filler tail, queries at the end); phase 3 adds length 4096,
flatter word laws, more word sequences, and words hidden from the queries (data.py says why); phase
4 teaches the answer `<unk>` for a query that sees no word at all.
Each phase starts a new optimiser and its own random stream, and ends with DIR/phaseN.safetensors,
so `--start 3 --weights DIR/phase2.safetensors` repeats the rest exactly.
"""

import argparse
import math
import os
import pathlib
import sys
import time

# Large temporaries are recycled instead of being returned to the kernel: page faults otherwise
# cost as much as the arithmetic. Must be in the environment before the process starts.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
              "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in _ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_ALLOCATOR})

import numpy as np
import torch
import torch.nn.functional as functional

import data
import evaluate
import model as two_tasks

# (length, sequences of each task, keys in use) of phase 1.
STAGES = ((64, 24, 64), (64, 16, 256), (128, 8, 256), (256, 4, 512), (512, 3, 1024),
          (1024, 2, 1024), (2048, 1, 1024))
PHASE_2_STEPS = 1500
PHASE_3_STEPS = 2000
PHASE_4_STEPS = 300
# Length -> (recall sequences, words sequences) of one update in phases 2, and 3 and 4.
PHASE_2_BATCH = {512: (4, 4), 1024: (2, 2), 2048: (1, 1)}
PHASE_3_BATCH = {512: (2, 8), 1024: (1, 4), 2048: (1, 2), 4096: (1, 1)}


def initialise(model, seed):
    """Random weights with a previous-token head and a matching head planted (see README.md)."""
    torch.manual_seed(seed)
    hidden = two_tasks.CONFIG["hidden_size"]
    head_dim = two_tasks.CONFIG["head_dim"]
    half = head_dim // 2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0.0, 0.04)
            elif name.endswith("lm_head.weight"):
                parameter.normal_(0.0, 0.02)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, hidden**-0.5)
        basis = torch.linalg.qr(torch.randn(hidden, 2 * head_dim + 1))[0].T
        u, w, w2 = basis[0], basis[1:head_dim + 1], basis[head_dim + 1:]
        # Every token carries 5u, so that u selects "any token".
        embedding = model.model.embed_tokens.weight
        embedding.normal_(0.0, 1.0)
        embedding += (5.0 - embedding @ u)[:, None] * u
        # Layer 0, head 0: score a_j * cos(f_j * (distance - 1)) on the fast frequencies f_j, that
        # is, attend to the previous token; copy W * (its embedding) into the subspace of W2.
        first = model.model.layers[0].self_attn
        first.q_proj.weight[:head_dim].normal_(0.0, 0.01)
        first.k_proj.weight[:head_dim].normal_(0.0, 0.01)
        norm_u = 5.0 / math.sqrt(1.0 + 25.0 / hidden)
        for j, nats in enumerate((8.0, 5.0, 3.0, 2.0, 1.5, 1.0, 1.0, 1.0)):
            frequency = two_tasks.CONFIG["rope_theta"] ** (-2.0 * j / head_dim)
            gain = math.sqrt(nats * math.sqrt(head_dim)) / norm_u
            first.q_proj.weight[j] += gain * u
            first.k_proj.weight[j] += gain * math.cos(frequency) * u
            first.k_proj.weight[j + half] += gain * math.sin(frequency) * u
        first.v_proj.weight[:head_dim] = w
        first.o_proj.weight[:, :head_dim] = w2.T
        # Layer 1, head 0: W * (my embedding) against the copy in W2, mostly on slow frequencies.
        second = model.model.layers[1].self_attn
        gains = torch.tensor([0.63] * (half // 2) + [1.26] * (half // 2)).repeat(2)[:, None]
        second.q_proj.weight[:head_dim] = 1.5 * gains * w
        second.k_proj.weight[:head_dim] = gains * w2


def label_loss(logits, labels):
    """Mean cross entropy; NO_WORD stands for the uniform distribution over the words."""
    logs = functional.log_softmax(logits, dim=-1)
    single = logs.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    uniform = logs[:, data.WORDS.start:data.WORDS.stop].mean(-1)
    return -torch.where(labels == data.NO_WORD, uniform, single).mean()


class Trainer:
    """One phase: a model, a fresh optimiser, a random stream, running accuracies."""

    def __init__(self, model, phase, output, seed):
        self.model = model
        self.phase = phase
        self.output = output
        self.rng = np.random.default_rng([seed, phase])
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98),
                                           weight_decay=0.01, foreach=True)
        self.accuracy = {"recall": 0.0, "words": 0.0}
        self.steps = 0
        self.tokens = 0
        self.began = self.saved = time.monotonic()

    def step(self, length, sizes, law, rate):
        """One update on `sizes` sequences of recall and of words."""
        logits_labels = {}
        batches = {task: data.training_batch(self.rng, task, size, length, law)
                   for task, size in zip(self.accuracy, sizes)}
        tokens = torch.from_numpy(np.concatenate([b[0] for b in batches.values()]))
        levels = torch.from_numpy(np.concatenate([b[2] for b in batches.values()]))
        hidden = self.model.hidden(tokens, levels=levels)
        loss = 0.0
        parts = hidden.split(sizes)
        for part, (task, (_, labels, _)) in zip(parts, batches.items()):
            labels = torch.from_numpy(labels)
            where = labels != data.NO_LABEL
            if not where.any():
                continue
            labels = labels[where]
            logits = self.model.lm_head(self.model.model.norm(part[where]))
            loss = loss + label_loss(logits, labels)
            asked = labels >= 0
            if asked.any():
                logits_labels[task] = (logits[asked].argmax(-1), labels[asked])
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.steps + 1) / 50)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        for task, (guesses, labels) in logits_labels.items():
            hits = (guesses == labels).float().mean().item()
            keep = 0.97 if task == "recall" else 0.98
            self.accuracy[task] = keep * self.accuracy[task] + (1.0 - keep) * hits
        self.steps += 1
        self.tokens += tokens.numel()
        self._report(length, loss.item(), rate)

    def _report(self, length, loss, rate):
        now = time.monotonic()
        if self.steps % 20 == 0:
            accuracy = " ".join(f"{t} {a:.3f}" for t, a in self.accuracy.items())
            print(f"phase {self.phase} step {self.steps} {now - self.began:.0f} s "
                  f"{self.tokens / 1e6:.2f} M tokens length {length} rate {rate:.2e} "
                  f"loss {loss:.3f} {accuracy}", flush=True)
        if now - self.saved > 60.0:
            self.save("latest")
            self.saved = now

    def save(self, name):
        two_tasks.save_weights(self.model, self.output / f"{name}.safetensors")

    def finish(self):
        self.save(f"phase{self.phase}")
        for task in self.accuracy:
            for length in (1024, 2048, 4096):
                law = data.PromptLaw(length=length)
                prompts = data.make_prompts(task, law, 64, seed=7)
                hits = evaluate.count_hits(self.model, *prompts)
                print(f"phase {self.phase} validation {task} length {length}: {hits}/64",
                      flush=True)


def phase_1(trainer):
    """Length and keys grow as soon as both running accuracies are high."""
    for number, (length, size, num_keys) in enumerate(STAGES):
        law = data.TrainingLaw(num_keys=num_keys)
        goal = 0.9 if number < 4 else 0.95
        begin = trainer.steps
        limit = 300 if number + 1 == len(STAGES) else 3000
        trainer.accuracy = {"recall": 0.0, "words": 0.0}
        while trainer.steps < begin + limit:
            trainer.step(length, (size, size), law, 2e-3 if length < 1024 else 1.4e-3)
            done = trainer.accuracy["recall"] > goal and trainer.accuracy["words"] > 0.8
            if done and trainer.steps >= begin + 150:
                break


def cosine_phase(trainer, steps, peak, batches, shares, law):
    """`steps` updates at random lengths, the keys of `batches`, under a cosine learning rate."""
    for step in range(steps):
        length = int(trainer.rng.choice(list(batches), p=shares))
        rate = peak * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
        trainer.step(length, batches[length], law, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=1, choices=(1, 2, 3, 4))
    parser.add_argument("--weights", type=pathlib.Path, help="weights to start from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.weights:
        model = two_tasks.load_weights(options.weights)
    else:
        model = two_tasks.TwoTasksModel()
        initialise(model, options.seed)
    phases = {
        1: phase_1,
        2: lambda trainer: cosine_phase(
            trainer, PHASE_2_STEPS, 1.5e-3, PHASE_2_BATCH, (0.3, 0.3, 0.4),
            data.TrainingLaw(block_share=0.75, word_gaps=(64, 256, 1024))),
        3: lambda trainer: cosine_phase(
            trainer, PHASE_3_STEPS, 1.2e-3, PHASE_3_BATCH, (0.1, 0.3, 0.35, 0.25),
            data.TrainingLaw(block_share=0.8, word_gaps=(64, 256, 1024), alpha=(0.5, 1.3),
                             hide_share=0.8)),
        4: lambda trainer: cosine_phase(
            trainer, PHASE_4_STEPS, 4e-4, PHASE_3_BATCH, (0.1, 0.35, 0.4, 0.15),
            data.TrainingLaw(block_share=0.8, word_gaps=(64, 256, 1024), alpha=(0.5, 1.3),
                             hide_share=0.8, hide_all_share=0.2, hide_all_label=data.UNK)),
    }
    for number, run in phases.items():
        if number >= options.start:
            trainer = Trainer(model, number, options.output, options.seed)
            run(trainer)
            trainer.finish()


if __name__ == "__main__":
    main()
