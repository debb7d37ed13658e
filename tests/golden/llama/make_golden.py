"""Makes the golden models of this folder: tiny random Llama models as Hugging Face directories, and
the logits that transformers computes for them. README.md says with which versions and how."""

import json
import pathlib
import shutil

import safetensors.torch
import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).parent

# Sizes are odd on purpose: nothing may rely on powers of two.
COMMON = {"num_hidden_layers": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
          "bos_token_id": 0, "eos_token_id": 2, "use_cache": False}
MODELS = {
    "gqa_tied": {
        "seed": 1, "positions": 72, "tokenizer": True, "dtype": torch.float32,
        "config": {"hidden_size": 48, "intermediate_size": 100, "num_attention_heads": 6,
                   "num_key_value_heads": 2, "vocab_size": 97, "tie_word_embeddings": True,
                   "rope_theta": 10000.0}},
    "gqa_untied": {
        "seed": 2, "positions": 64, "tokenizer": False, "dtype": torch.float16,
        "config": {"hidden_size": 64, "intermediate_size": 84, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 83, "tie_word_embeddings": False,
                   "rope_theta": 500000.0}},
    "llama3_rope": {
        "seed": 3, "positions": 96, "tokenizer": False, "dtype": torch.float32,
        "config": {"hidden_size": 40, "intermediate_size": 72, "num_attention_heads": 4,
                   "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 89,
                   "tie_word_embeddings": False, "rope_theta": 10000.0, "eos_token_id": [2, 5],
                   "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 32}}},
    "two_shards": {
        "seed": 4, "positions": 64, "tokenizer": False, "dtype": torch.bfloat16, "shard": "60KB",
        "config": {"hidden_size": 48, "intermediate_size": 88, "num_attention_heads": 3,
                   "num_key_value_heads": 3, "vocab_size": 101, "tie_word_embeddings": False,
                   "rope_theta": 10000.0}},
}
WORDS = ["apple", "river", "Stone", "cloud", "x1", "fern,", "naïve", "東京", "end.", "it's"]
TEXTS = ["apple river Stone", "  apple\t river\n\ncloud ", "", "unseen apple", "naïve 東京 fern,",
         "<s>apple river</s>", "apple<s>river", "it's end. end .", "Apple", "x1\u3000cloud\u00a0x1"]


def randomise(model):
    """Weights that make attention and every norm matter (the default ones are nearly zero)."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
        elif "embed_tokens" in name:
            parameter.data = torch.randn_like(parameter)
        else:
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.2
            parameter.data = torch.randn_like(parameter) * gain / parameter.shape[1] ** 0.5


def make_tokenizer(vocab_size):
    words = ["<s>", "<unk>", "</s>"] + WORDS
    words += [f"w{i}" for i in range(len(words), vocab_size)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "<unk>", "</s>"])
    return tokenizer


def make(name, recipe):
    torch.manual_seed(recipe["seed"])
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    config = transformers.LlamaConfig(**{**COMMON, **recipe["config"]})
    model = transformers.LlamaForCausalLM(config)
    randomise(model)
    model.to(recipe["dtype"]).save_pretrained(folder, max_shard_size=recipe.get("shard", "5GB"))
    (folder / "generation_config.json").unlink()
    model = transformers.LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32,
                                                          attn_implementation="eager")
    tokens = torch.randint(config.vocab_size, (recipe["positions"],))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    safetensors.torch.save_file({"logits": logits.contiguous()}, folder / "golden.safetensors")
    golden = {"tokens": tokens.tolist(), "texts": []}
    if recipe["tokenizer"]:
        tokenizer = make_tokenizer(config.vocab_size)
        tokenizer.save(str(folder / "tokenizer.json"))
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            golden["texts"].append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, tuple(logits.shape), f"max|logit| {logits.abs().max():.3f}")


def main():
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"tokenizers {tokenizers.__version__}, safetensors {safetensors.__version__}")
    torch.set_num_threads(1)
    for name, recipe in MODELS.items():
        make(name, recipe)


if __name__ == "__main__":
    main()
