"""The two_tasks Llama in PyTorch: the module, its attention kernel and its weight file.

Parameters carry the names of Hugging Face's LlamaForCausalLM, so that the weight file needs no
conversion. The attention runs in flash_attention.cc (compiled on first use, called by ctypes);
`reference=True` takes plain PyTorch instead, for checks and for the golden file.
"""

import ctypes
import hashlib
import json
import os
import pathlib
import struct
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1224,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 4,
    "pad_token_id": 5,
    "torch_dtype": "float32",
    "use_cache": True,
}

_HEAD_DIM = CONFIG["head_dim"]
_Q_HEADS = CONFIG["num_attention_heads"]
_KV_HEADS = CONFIG["num_key_value_heads"]


def _compile_kernel():
    """Compiles flash_attention.cc once per source text and compiler flags; returns the library."""
    source = pathlib.Path(__file__).with_name("flash_attention.cc")
    flags = ["-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC",
             "-Wno-psabi"]
    digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    library = pathlib.Path(tempfile.gettempdir()) / f"flash_attention_{os.getuid()}_{digest}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, *flags, str(source), "-o", str(partial)], check=True)
        partial.rename(library)
    return ctypes.CDLL(str(library))


_kernel = None


def _call(name, integers, *tensors):
    global _kernel
    if _kernel is None:
        _kernel = _compile_kernel()
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(_kernel, name)(*[ctypes.c_int(i) for i in integers], *pointers)


class FlashAttention(torch.autograd.Function):
    """q (B, T, 4*32), k and v (B, T, 2*32), not yet rotated -> attention output (B, T, 4*32).

    levels (B, T) int8: a level-2 token is hidden from all others, a level-1 token from level 2.
    """

    @staticmethod
    def forward(ctx, q, k, v, cosines, sines, levels):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        batch, length, _ = q.shape
        shape = (batch, length, _Q_HEADS, _KV_HEADS)
        out = torch.empty_like(q)
        lse = q.new_empty(batch, _Q_HEADS, length)
        _call("AttentionForward", shape, cosines, sines, levels, q, k, v, out, lse)
        ctx.shape = shape
        ctx.save_for_backward(q, k, v, cosines, sines, levels, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, cosines, sines, levels, out, lse = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (q, k, v)]
        _call("AttentionBackward", ctx.shape, cosines, sines, levels, q, k, v, out, lse,
              grad_out.contiguous(), *grads)
        return (*grads, None, None, None)


def rotate(x, cosines, sines):
    """RoPE with the half-split pairing on (B, T, heads, 32)."""
    low, high = x.chunk(2, dim=-1)
    c, s = cosines[:, None, :], sines[:, None, :]
    return torch.cat([low * c - high * s, high * c + low * s], dim=-1)


def reference_attention(q, k, v, cosines, sines, levels):
    """The same function as FlashAttention in plain PyTorch."""
    batch, length, _ = q.shape
    group = _Q_HEADS // _KV_HEADS
    q = rotate(q.view(batch, length, _Q_HEADS, _HEAD_DIM), cosines, sines)
    k = rotate(k.view(batch, length, _KV_HEADS, _HEAD_DIM), cosines, sines)
    k = k.repeat_interleave(group, dim=2)
    v = v.view(batch, length, _KV_HEADS, _HEAD_DIM).repeat_interleave(group, dim=2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / _HEAD_DIM**0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    rows, columns = levels[:, :, None] == 2, levels[:, None, :]
    hidden = ((columns == 2) | (rows & (columns == 1))) & ~torch.eye(length, dtype=torch.bool)
    weights = scores.masked_fill((future | hidden)[:, None], float("-inf")).softmax(dim=-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).reshape(batch, length, -1)


class RmsNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
        return x * scale * self.weight


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = CONFIG["hidden_size"]
        self.q_proj = nn.Linear(hidden, _Q_HEADS * _HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(hidden, _KV_HEADS * _HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(hidden, _KV_HEADS * _HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(_Q_HEADS * _HEAD_DIM, hidden, bias=False)

    def forward(self, x, tables, reference):
        attend = reference_attention if reference else FlashAttention.apply
        return self.o_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), *tables))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = SelfAttention()
        self.mlp = Mlp()
        self.input_layernorm = RmsNorm(CONFIG["hidden_size"])
        self.post_attention_layernorm = RmsNorm(CONFIG["hidden_size"])

    def forward(self, x, tables, reference):
        x = x + self.self_attn(self.input_layernorm(x), tables, reference)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = RmsNorm(CONFIG["hidden_size"])


class TwoTasksModel(nn.Module):
    """LlamaForCausalLM of CONFIG."""

    def __init__(self):
        super().__init__()
        self.model = Decoder()
        self.lm_head = nn.Linear(CONFIG["hidden_size"], CONFIG["vocab_size"], bias=False)
        self._tables = {}

    def rope_tables(self, length):
        """Cosines and sines, (length, 16), angles computed in float64."""
        if length not in self._tables:
            exponents = np.arange(0, _HEAD_DIM, 2) / _HEAD_DIM
            angles = np.arange(length)[:, None] * CONFIG["rope_theta"] ** -exponents[None, :]
            self._tables[length] = (torch.tensor(np.cos(angles), dtype=torch.float32),
                                    torch.tensor(np.sin(angles), dtype=torch.float32))
        return self._tables[length]

    def hidden(self, tokens, reference=False, levels=None):
        """Final hidden states before the last norm, (B, T, hidden)."""
        if levels is None:
            levels = torch.zeros(tokens.shape, dtype=torch.int8)
        tables = (*self.rope_tables(tokens.shape[1]), levels)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, tables, reference)
        return x

    def last_logits(self, tokens, reference=False, levels=None):
        """Logits after the last token, (B, vocab)."""
        return self.lm_head(self.model.norm(self.hidden(tokens, reference, levels)[:, -1]))


def save_weights(model, path):
    """Writes the parameters as a safetensors file, atomically."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in model.state_dict().items():
        data = value.detach().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape),
                        "data_offsets": [offset, offset + len(data)]}
        blobs.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    partial.rename(path)


def load_weights(path):
    """Reads a safetensors file written by save_weights into a new model."""
    content = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + size])
    state = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = np.frombuffer(content, "<f4", (end - begin) // 4, 8 + size + begin)
        state[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    model = TwoTasksModel()
    model.load_state_dict(state)
    return model
