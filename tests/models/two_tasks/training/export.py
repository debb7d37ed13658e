"""Writes the Hugging Face files of the two_tasks model and its golden file from a weight file."""

import argparse
import json
import pathlib

import torch

import data
import model as two_tasks

# (task, length, tail, pairs_per_1024) of the golden prompts; seeds 31 to 34.
_GOLDEN = (("recall", 96, 16, 300), ("recall", 160, 48, 300), ("words", 96, 16, 0),
           ("words", 160, 48, 0))


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def tokenizer():
    """tokenizer.json: one token per word, words separated by blanks, nothing added."""
    words = data.vocabulary()
    special = [data.BOS, data.UNK, data.EOS, data.PAD]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)},
                  "unk_token": words[data.UNK]},
    }


def golden(model):
    """Four short prompts with the five largest logits after the last token."""
    words = data.vocabulary()
    prompts = []
    for number, (task, length, tail, pairs_per_1024) in enumerate(_GOLDEN):
        law = data.PromptLaw(length=length, tail=tail, pairs_per_1024=pairs_per_1024)
        tokens, answers = data.make_prompts(task, law, 1, seed=31 + number)
        with torch.no_grad():
            logits = model.last_logits(torch.from_numpy(tokens), reference=True)[0]
        top = logits.topk(5)
        prompts.append({
            "id": f"{task}-{length}",
            "tokens": tokens[0].tolist(),
            "expected": int(answers[0]),
            "argmax": int(logits.argmax()),
            "top5": [[int(i), round(float(v), 6)] for i, v in zip(top.indices, top.values)],
        })
        print(f"golden {task} {length}: expected {words[answers[0]]}, "
              f"argmax {words[int(logits.argmax())]}")
    return prompts


def _compact(prompts):
    """One line per field, so that the file stays readable."""
    rows = [",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in p.items())
            for p in prompts]
    return "[\n" + ",\n".join("  {\n" + row + "\n  }" for row in rows) + "\n]\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    model = two_tasks.load_weights(options.weights)
    words = data.vocabulary()
    _write_json(options.output / "config.json", two_tasks.CONFIG)
    _write_json(options.output / "generation_config.json", {
        "bos_token_id": data.BOS, "eos_token_id": data.EOS, "pad_token_id": data.PAD,
        "do_sample": False})
    _write_json(options.output / "tokenizer.json", tokenizer())
    _write_json(options.output / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": words[data.BOS],
        "eos_token": words[data.EOS], "unk_token": words[data.UNK], "pad_token": words[data.PAD],
        "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": two_tasks.CONFIG["max_position_embeddings"]})
    two_tasks.save_weights(model, options.output / "model.safetensors")
    (options.output / "golden.json").write_text(_compact(golden(model)))


if __name__ == "__main__":
    main()
