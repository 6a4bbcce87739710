"""The model: Llama architecture, as small as it may be; training pass, export."""

import json
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

LAYERS, HEAD, VOCABULARY, CONTEXT = 6, 32, 1024, 2048
HIDDEN, HEADS, KV_HEADS, FFN = 256, 8, 4, 704
THETA, EPSILON = 10000.0, 1e-5


def shrink():
    """For a pilot: a million parameters in as many layers. To be called before a model is made."""
    global HIDDEN, HEADS, KV_HEADS, FFN
    HIDDEN, HEADS, KV_HEADS, FFN = 128, 4, 2, 256


def device():
    """Where training computes: the GPU when there is one. Parameters are drawn on the CPU in either case, and checkpoints load on both."""
    chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"device: {torch.cuda.get_device_name() if chosen.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}", flush=True)
    return chosen


def rope(positions):
    angles = torch.outer(positions.float(), THETA ** (-torch.arange(0, HEAD, 2, device=positions.device) / HEAD))
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((angles.sin(), angles.sin()), -1)


def rotate(t, cos, sin):
    a, b = t.chunk(2, -1)
    return (t * cos + torch.cat((-b, a), -1) * sin).to(t.dtype)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_norm, self.post_norm = nn.Parameter(torch.ones(HIDDEN)), nn.Parameter(torch.ones(HIDDEN))
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD, bias=False)
        self.o = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate_up = nn.Linear(HIDDEN, 2 * FFN, bias=False)
        self.down = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        rows, count, _ = x.shape
        heads = self.qkv(F.rms_norm(x, (HIDDEN,), self.input_norm, EPSILON)).view(rows, count, HEADS + 2 * KV_HEADS, HEAD).transpose(1, 2)
        q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS], 1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(HEADS // KV_HEADS, 1), v.repeat_interleave(HEADS // KV_HEADS, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(rows, count, HIDDEN))
        gate, up = self.gate_up(F.rms_norm(x, (HIDDEN,), self.post_norm, EPSILON)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Net(nn.Module):
    """scores: a reward model: has one value a token besides, and reward.py its own losses."""

    def __init__(self, scores=False):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.Parameter(torch.ones(HIDDEN))
        self.score = nn.Linear(HIDDEN, 1) if scores else None
        nn.init.normal_(self.embed.weight, std=0.02)
        for block in self.blocks:
            for layer, scale in ((block.qkv, 1), (block.o, 2 * LAYERS), (block.gate_up, 1), (block.down, 2 * LAYERS)):
                nn.init.normal_(layer.weight, std=HIDDEN ** -0.5 / scale ** 0.5)

    def hidden(self, tokens):
        x = self.embed(tokens)
        cos, sin = rope(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.rms_norm(x, (HIDDEN,), self.norm, EPSILON)

    def forward(self, tokens, targets, weights):
        """Weighted mean of the losses; targets are the next tokens."""
        logits = F.linear(self.hidden(tokens), self.embed.weight).float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
        return (loss * weights).sum() / weights.sum()


def export(net, folder):
    """A Hugging Face folder but for the tokenizer: bf16 weights and configuration."""
    os.makedirs(folder, exist_ok=True)
    tensors = {"model.embed_tokens.weight": net.embed.weight, "model.norm.weight": net.norm}
    for i, b in enumerate(net.blocks):
        q, k, v = b.qkv.weight.split([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD])
        gate, up = b.gate_up.weight.chunk(2)
        for name, t in (("input_layernorm", b.input_norm), ("post_attention_layernorm", b.post_norm), ("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v),
                        ("self_attn.o_proj", b.o.weight), ("mlp.gate_proj", gate), ("mlp.up_proj", up), ("mlp.down_proj", b.down.weight)):
            tensors[f"model.layers.{i}.{name}.weight"] = t
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "head_dim": HEAD, "intermediate_size": FFN, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "rope_theta": THETA, "rms_norm_eps": EPSILON, "hidden_act": "silu",
              "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 0, "attention_bias": False, "mlp_bias": False}
    if net.score is not None:
        tensors["score.weight"], tensors["score.bias"] = net.score.weight, net.score.bias
        config.update(architectures=["LlamaForTokenClassification"], num_labels=1, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    else:
        with open(os.path.join(folder, "generation_config.json"), "w") as f:
            json.dump({"do_sample": True, "temperature": 0.9, "eos_token_id": 3, "pad_token_id": 0}, f, indent=2)
            f.write("\n")
    save_file({k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in tensors.items()}, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
