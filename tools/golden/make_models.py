#!/usr/bin/env python3
"""Writes tests/golden/models: a tiny model of random weights of every family, as Hugging Face files, and
what PyTorch and transformers compute with it in float32 (eager attention, one thread).

    python3 tools/golden/make_models.py tests/golden/models

Needs torch, transformers, safetensors. The files it wrote are committed; the format of golden.bin is in
tests/golden/models/README.md, which this writes, too.
"""
import json
import os
import shutil
import struct
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (BertConfig, BertModel, Gemma2Config, Gemma2ForCausalLM, GemmaConfig,
                          GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen2ForSequenceClassification, Qwen2ForTokenClassification, Qwen3Config, Qwen3ForCausalLM)

PROMPT_TOKENS = 96
GREEDY_TOKENS = 64
VOCABULARY = 256
WEIGHTS_SEED, PROMPT_SEED = 20261121, 7
LOGITS, SCORES, VECTOR = 0, 1, 2

COMMON = dict(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager")


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


def longrope():
    pairs = 6  # head_dim 16, partial rotary 0.75
    return rope("longrope", short_factor=[1.0 + 0.05 * i for i in range(pairs)],
                long_factor=[1.0 + 0.4 * i for i in range(pairs)], partial_rotary_factor=0.75)


# name, config class, model class, what is different, type of the stored weights
MODELS = [
    ("llama2", LlamaConfig, LlamaForCausalLM, rope("default"), torch.float32),
    ("llama3", LlamaConfig, LlamaForCausalLM,
     rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
          original_max_position_embeddings=64) | dict(tie_word_embeddings=True), torch.bfloat16),
    ("llama-linear", LlamaConfig, LlamaForCausalLM, rope("linear", factor=4.0), torch.bfloat16),
    ("llama-dynamic", LlamaConfig, LlamaForCausalLM, rope("dynamic", factor=2.0), torch.bfloat16),
    ("llama-yarn", LlamaConfig, LlamaForCausalLM,
     rope("yarn", factor=4.0, original_max_position_embeddings=64), torch.bfloat16),
    ("llama-bias", LlamaConfig, LlamaForCausalLM,
     rope("default") | dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1), torch.bfloat16),
    ("mistral", MistralConfig, MistralForCausalLM,
     rope("default") | dict(sliding_window=24, head_dim=24), torch.float16),
    ("qwen2", Qwen2Config, Qwen2ForCausalLM, rope("default", 1e6), torch.bfloat16),
    ("qwen2-window", Qwen2Config, Qwen2ForCausalLM,
     rope("default", 1e6) | dict(use_sliding_window=True, sliding_window=24, max_window_layers=1,
                                 num_hidden_layers=3, tie_word_embeddings=True), torch.bfloat16),
    ("qwen3", Qwen3Config, Qwen3ForCausalLM, rope("default", 1e6) | dict(head_dim=32), torch.bfloat16),
    ("gemma", GemmaConfig, GemmaForCausalLM, rope("default") | dict(head_dim=32), torch.bfloat16),
    ("gemma2", Gemma2Config, Gemma2ForCausalLM,
     rope("default") | dict(head_dim=32, sliding_window=24, query_pre_attn_scalar=20,
                            attn_logit_softcapping=5.0, final_logit_softcapping=4.0,
                            num_hidden_layers=3), torch.bfloat16),
    ("phi3", Phi3Config, Phi3ForCausalLM,
     longrope() | dict(original_max_position_embeddings=64), torch.bfloat16),
    ("phi3-short", Phi3Config, Phi3ForCausalLM,
     longrope() | dict(original_max_position_embeddings=256, max_position_embeddings=512), torch.bfloat16),
    ("reward-sequence", Qwen2Config, Qwen2ForSequenceClassification,
     rope("default", 1e6) | dict(num_labels=1), torch.bfloat16),
    ("reward-process", Qwen2Config, Qwen2ForTokenClassification,
     rope("default", 1e6) | dict(num_labels=2), torch.bfloat16),
    ("reward-value", Qwen2Config, Qwen2ForCausalLM, rope("default", 1e6), torch.bfloat16),
    ("reward-token-mean", LlamaConfig, LlamaForCausalLM, rope("default"), torch.bfloat16),
    ("bert", BertConfig, BertModel,
     dict(type_vocab_size=2, hidden_act="gelu"), torch.bfloat16),
    ("bert-first", BertConfig, BertModel,
     dict(type_vocab_size=2, hidden_act="gelu"), torch.bfloat16),
]


def randomise(model, dtype):
    """Values that make every part matter, and that the stored type holds exactly."""
    generator = torch.Generator().manual_seed(WEIGHTS_SEED)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        gemma = "Gemma" in type(model).__name__
        if p.dim() == 2 and "embed" in name:
            value = noise / (p.shape[1] ** 0.5 if gemma else 1.0)  # Gemma multiplies by that
        elif p.dim() == 2:
            value = noise * 1.5 / p.shape[1] ** 0.5
        elif "norm" in name.lower() and name.endswith("weight"):
            value = (0.0 if gemma else 1.0) + 0.3 * noise
        else:
            value = 0.3 * noise
        p.data = value.to(dtype).float()


def greedy(model, ids):
    gaps = []
    ids = list(ids)
    for _ in range(GREEDY_TOKENS):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        top = torch.topk(logits, 2)
        gaps.append(float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return ids[PROMPT_TOKENS:], gaps


def values_of(name, model, head, ids):
    tokens = torch.tensor([ids])
    if name == "bert":
        return VECTOR, model(tokens).last_hidden_state.mean(dim=1)
    if name == "bert-first":
        return VECTOR, torch.nn.functional.normalize(model(tokens).last_hidden_state[:, 0])
    if name == "reward-sequence":
        return SCORES, model.score(model.model(tokens).last_hidden_state)[0]
    if name == "reward-process":
        return SCORES, torch.softmax(model(tokens).logits[0], dim=1)[:, 1:]
    if name == "reward-value":
        hidden = model.model(tokens).last_hidden_state[0]
        return SCORES, torch.sigmoid(hidden @ head["v_head.summary.weight"].T + head["v_head.summary.bias"])
    if name == "reward-token-mean":
        return SCORES, torch.sigmoid(model(tokens).logits[0].mean(dim=1, keepdim=True))
    return LOGITS, model(tokens, use_cache=False).logits[0]


def write_modules(path, hidden):
    """What sentence-transformers lays beside a model: pooling by the first token, length 1."""
    package = "sentence_transformers.models."
    modules = [dict(idx=0, name="0", path="", type=package + "Transformer"),
               dict(idx=1, name="1", path="1_Pooling", type=package + "Pooling"),
               dict(idx=2, name="2", path="2_Normalize", type=package + "Normalize")]
    kinds = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = dict(word_embedding_dimension=hidden)
    pooling |= {"pooling_mode_" + kind: kind == "cls_token" for kind in kinds} | dict(include_prompt=True)
    os.makedirs(os.path.join(path, "1_Pooling"))
    for name, value in (("modules.json", modules), ("1_Pooling/config.json", pooling)):
        with open(os.path.join(path, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")


def write(folder, name, config_class, model_class, more, dtype):
    path = os.path.join(folder, name)
    shutil.rmtree(path, ignore_errors=True)
    arguments = COMMON | more
    if model_class is BertModel:
        del arguments["num_key_value_heads"]
    model = model_class._from_config(config_class(**arguments)).float().eval()
    randomise(model, dtype)
    if getattr(model.config, "tie_word_embeddings", False):
        model.tie_weights()
    generator = torch.Generator().manual_seed(PROMPT_SEED)
    ids = torch.randint(3, VOCABULARY, (PROMPT_TOKENS,), generator=generator).tolist()
    head = {}
    if name == "reward-value":
        head = {"v_head.summary.weight": torch.randn(1, 64, generator=generator).to(dtype).float() / 8,
                "v_head.summary.bias": torch.tensor([0.25])}
    with torch.no_grad():
        kind, values = values_of(name, model, head, ids)
        written, gaps = greedy(model, ids) if kind == LOGITS else ([], [])
    shards = "40KB" if name == "qwen2-window" else "1GB"
    model.to(dtype).save_pretrained(path, max_shard_size=shards)
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(path, extra)):
            os.remove(os.path.join(path, extra))
    if head:
        file = os.path.join(path, "model.safetensors")
        save_file(load_file(file) | {k: v.to(dtype).contiguous() for k, v in head.items()}, file)
    if name == "bert-first":
        write_modules(path, model.config.hidden_size)
    values = values.float().contiguous()
    with open(os.path.join(path, "golden.bin"), "wb") as f:
        f.write(struct.pack("<8sIIII", b"DYNGOLD1", kind, len(ids), values.shape[1], len(written)))
        f.write(struct.pack(f"<{len(ids)}I", *ids))
        f.write(values.numpy().astype("<f4").tobytes())
        f.write(struct.pack(f"<{len(written)}I", *written))
        f.write(struct.pack(f"<{len(gaps)}f", *gaps))
    print(f"{name}: kind {kind}, {tuple(values.shape)}, std {values.std():.3f}, "
          f"least gap {min(gaps) if gaps else 0:.4f}")


README = f"""# Tiny models and what the reference computes with them

Written by `tools/golden/make_models.py` with torch {torch.__version__} and transformers
{transformers.__version__}: random weights, float32, eager attention, one thread; seed {WEIGHTS_SEED} for
weights, {PROMPT_SEED} for the prompt (the same in all) and the value head. Each folder is a Hugging Face model as
`save_pretrained` leaves it, and `golden.bin`, little-endian:

| bytes | what |
| --- | --- |
| 8 | `DYNGOLD1` |
| 4 | kind: 0 logits, 1 scores, 2 vector |
| 4 | n: prompt tokens |
| 4 | c: columns |
| 4 | g: tokens of the greedy continuation (kind 0, otherwise 0) |
| 4 n | prompt |
| 4 c n | values of every position (kind 2: one row, 4 c) |
| 4 g | greedy continuation |
| 4 g | gap between the two greatest logits at each of its tokens |

`reasoner-policy*` and `reasoner-reward` are of the shipped models (`tools/model/reasoner/golden.py`); their weights are in
`tools/model/dynasor-5m`.

Scores: `reward-sequence` score head; `reward-process` the second of two labels' probability;
`reward-value` sigmoid of a value head `v_head.summary`; `reward-token-mean` sigmoid of the mean of the logits.
Vector: mean of the last hidden states; `bert-first` that of the first token, divided by its length, as its
modules.json says.
"""


def main():
    torch.set_num_threads(1)
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for model in MODELS:
        write(folder, *model)
    with open(os.path.join(folder, "README.md"), "w") as f:
        f.write(README)


if __name__ == "__main__":
    main()
