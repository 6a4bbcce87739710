#!/usr/bin/env python3
"""Writes a GGUF file of random bf16 weights for a Llama config.json, so that llama.cpp can be timed on the
shape that the engine is timed on. Needs nothing but the standard library.

  random_gguf.py CONFIG.json OUT.gguf

The file has no tokenizer (the model "no_vocab"): what runs it feeds token ids. Format: version 3 of GGUF as
ggml's docs/gguf.md describes it; names are those of llama.cpp's `llama` architecture.
"""
import json
import os
import random
import struct
import sys

ALIGNMENT = 32
F32, BF16 = 0, 30  # ggml's numbers for types
MOSTLY_BF16 = 32  # llama.cpp's number for a file of them
BLOCK = 1 << 22


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def value(key, v):
    kind = {int: (4, "<I"), float: (6, "<f"), str: (8, None)}[type(v)]
    return text(key) + struct.pack("<I", kind[0]) + (text(v) if kind[1] is None else struct.pack(kind[1], v))


def metadata(c):
    yield "general.architecture", "llama"
    yield "general.file_type", MOSTLY_BF16
    yield "tokenizer.ggml.model", "no_vocab"
    yield "llama.vocab_size", c["vocab_size"]
    yield "llama.context_length", c["max_position_embeddings"]
    yield "llama.embedding_length", c["hidden_size"]
    yield "llama.block_count", c["num_hidden_layers"]
    yield "llama.feed_forward_length", c["intermediate_size"]
    yield "llama.attention.head_count", c["num_attention_heads"]
    yield "llama.attention.head_count_kv", c["num_key_value_heads"]
    yield "llama.attention.layer_norm_rms_epsilon", float(c["rms_norm_eps"])
    yield "llama.rope.dimension_count", c["hidden_size"] // c["num_attention_heads"]
    yield "llama.rope.freq_base", float(c.get("rope_theta", 10000))


def tensors(c):
    """Name and shape, the fastest dimension first."""
    width, inner, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = width // c["num_attention_heads"] * c["num_key_value_heads"]
    yield "token_embd.weight", (width, vocab)
    for i in range(c["num_hidden_layers"]):
        yield f"blk.{i}.attn_norm.weight", (width,)
        yield f"blk.{i}.attn_q.weight", (width, width)
        yield f"blk.{i}.attn_k.weight", (width, kv)
        yield f"blk.{i}.attn_v.weight", (width, kv)
        yield f"blk.{i}.attn_output.weight", (width, width)
        yield f"blk.{i}.ffn_norm.weight", (width,)
        yield f"blk.{i}.ffn_gate.weight", (width, inner)
        yield f"blk.{i}.ffn_up.weight", (width, inner)
        yield f"blk.{i}.ffn_down.weight", (inner, width)
    yield "output_norm.weight", (width,)
    if not c["tie_word_embeddings"]:
        yield "output.weight", (width, vocab)


def count(shape):
    return shape[0] * (shape[1] if len(shape) == 2 else 1)


def size(shape):
    return count(shape) * (4 if len(shape) == 1 else 2)


def padding(n):
    return bytes(-n % ALIGNMENT)


def random_bf16(source, n):
    """n numbers of either sign between 1/128 and 1/32: random sign, mantissa and last bit of the exponent."""
    signs = bytes(0x3C | (b & 0x80) for b in range(256))
    out = bytearray(2 * n)
    out[0::2] = source.randbytes(n)
    out[1::2] = source.randbytes(n).translate(signs)
    return out


def main(config_path, out_path):
    with open(config_path, encoding="utf-8") as f:
        config = json.load(f)
    if config["model_type"] != "llama":
        sys.exit(f"{config_path}: model_type is {config['model_type']}, not llama")
    pairs, shapes = list(metadata(config)), list(tensors(config))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(pairs))
    head += b"".join(value(k, v) for k, v in pairs)
    offset = 0
    for name, shape in shapes:
        kind = F32 if len(shape) == 1 else BF16
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += size(shape) + len(padding(size(shape)))
    source = random.Random(1)
    with open(out_path + ".part", "wb") as f:
        f.write(head + padding(len(head)))
        for _, shape in shapes:
            if len(shape) == 1:
                f.write(struct.pack("<f", 1.0) * shape[0])
            for start in range(0, count(shape) if len(shape) == 2 else 0, BLOCK):
                f.write(random_bf16(source, min(BLOCK, count(shape) - start)))
            f.write(padding(size(shape)))
    os.rename(out_path + ".part", out_path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
