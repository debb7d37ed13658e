"""Accuracy of the two_tasks model with full attention on held-out prompts.

Training draws from other random streams (train.py: seed and phase); validation during training
uses seed 7. The seeds of the model card are 1001 (this generator) and 2001 (the C++ generator).
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch

import data
import model as two_tasks


SINKS = 4


def count_hits(model, tokens, answers, window=0, batch=8):
    """How many prompts of `tokens` (count, length) are answered right.

    With a window, the last token sees only the first SINKS and the last `window` tokens.
    """
    levels = np.zeros((batch, tokens.shape[1]), dtype=np.int8)
    if window:
        levels[:, SINKS:-window] = 1
        levels[:, -1] = 2
    hits = 0
    with torch.no_grad():
        for begin in range(0, len(answers), batch):
            part = torch.from_numpy(tokens[begin:begin + batch])
            logits = model.last_logits(part, levels=torch.from_numpy(levels[:len(part)]))
            hits += (logits.argmax(-1).numpy() == answers[begin:begin + batch]).sum()
    return int(hits)


def wilson(hits, count):
    """95 % interval of a proportion."""
    z, share = 1.96, hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * math.sqrt(
        share * (1 - share) / count + z * z / (4 * count * count))
    return centre - spread, centre + spread


def report(name, hits, count):
    low, high = wilson(hits, count)
    print(f"{name}: {hits}/{count} = {hits / count:.4f} [{low:.4f}, {high:.4f}]", flush=True)


def load_jsonl(path, model_dir):
    """Prompts of a JSON-lines file by task (the id before the dash), encoded by tokenizer.json."""
    ids = json.loads((model_dir / "tokenizer.json").read_text())["model"]["vocab"]
    tasks = {}
    for line in path.read_text().splitlines():
        prompt = json.loads(line)
        tokens = [ids[word] for word in prompt["text"].split()]
        task = prompt["id"].rsplit("-", 1)[0]
        tasks.setdefault(task, []).append((tokens, ids[prompt["expected"]]))
    return {task: (np.array([t for t, _ in prompts]), np.array([a for _, a in prompts]))
            for task, prompts in tasks.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parents[1],
                        help="model directory (default: the directory above this file)")
    parser.add_argument("--weights", type=pathlib.Path, help="another weight file")
    parser.add_argument("--jsonl", type=pathlib.Path, help="prompts of two_tasks_prompts")
    parser.add_argument("--task", choices=("recall", "words", "both"), default="both")
    parser.add_argument("--length", type=int, nargs="+", default=[2048])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--window", type=int, default=0,
                        help=f"let the last token see only {SINKS} sinks and this many last tokens")
    parser.add_argument("--seed", type=int, default=1001)
    law = data.PromptLaw()
    parser.add_argument("--tail", type=int, default=law.tail)
    parser.add_argument("--pairs-per-1024", type=int, default=law.pairs_per_1024)
    parser.add_argument("--zipf-alpha", type=float, default=law.zipf_alpha)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = two_tasks.load_weights(options.weights or options.model / "model.safetensors")
    if options.jsonl:
        for task, (tokens, answers) in load_jsonl(options.jsonl, options.model).items():
            hits = count_hits(model, tokens, answers, options.window)
            report(f"{task} length {tokens.shape[1]} {options.jsonl.name}", hits, len(answers))
        return
    for length in options.length:
        for task in ("recall", "words") if options.task == "both" else (options.task,):
            law = data.PromptLaw(length=length, tail=options.tail,
                                 pairs_per_1024=options.pairs_per_1024,
                                 zipf_alpha=options.zipf_alpha)
            prompts = data.make_prompts(task, law, options.count, options.seed)
            detail = {"recall": f"pairs {law.pairs_per_1024 * length // 1024}",
                      "words": f"alpha {law.zipf_alpha}"}[task]
            if options.window:
                detail += f" window {options.window}"
            report(f"{task} length {length} tail {law.tail} {detail} seed {options.seed}",
                   count_hits(model, *prompts, options.window), options.count)


if __name__ == "__main__":
    main()
