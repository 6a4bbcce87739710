#!/usr/bin/env python3
"""Times Hugging Face transformers on a GPU, on the shape and the loads that tests/gpu/bench_gpu.c times the engine on.

  transformers_gpu.py CONFIG.json OUT

OUT gets lines `NAME TOKENS_PER_S`: decode_b1, decode_b8, decode_b64 and shared_prefix_b64 (a token for each row
after its context), prefill512. Random weights in bf16, scaled dot product attention, the cache that generate() takes
by default; the median of 20 steps after 5. transformers shares no prefix: there every row has a copy of its own.
A load that fails, for want of memory say, is named and has no line.

Without torch, transformers or a GPU: says so, writes nothing, status 77. For development; nothing here is shipped.
"""
import json
import os
import statistics
import sys
import time

WARM, STEPS = 5, 20
DECODE_POSITION = 1000
SHARED_POSITION = 4096 + 100
DECODES = {"decode_b1": (1, DECODE_POSITION), "decode_b8": (8, DECODE_POSITION),
           "decode_b64": (64, DECODE_POSITION), "shared_prefix_b64": (64, SHARED_POSITION)}
PREFILL = 512


def not_measured(why):
    print(f"transformers: not measured: {why}")
    sys.exit(77)


def model_new(torch, transformers, path):
    with open(path) as file:
        config = transformers.LlamaConfig(**json.load(file))
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    return model.eval()


def seconds(torch, step):
    """The median; step() is one."""
    times = []
    for i in range(WARM + STEPS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM:])


def ids(torch, model, rows, count):
    return torch.randint(0, model.config.vocab_size, (rows, count), device="cuda")


def decode(torch, model, rows, position):
    """Greedy, so that what is timed ends at a token as the engine's does."""
    cache = model.model(ids(torch, model, 1, position), use_cache=True).past_key_values
    if rows > 1:
        cache.batch_repeat_interleave(rows)
    state = {"token": ids(torch, model, rows, 1)}

    def step():
        out = model(state["token"], past_key_values=cache, use_cache=True)
        state["token"] = out.logits[:, -1:].argmax(-1)

    return rows / seconds(torch, step)


def prefill(torch, model):
    tokens = ids(torch, model, 1, PREFILL)

    def step():
        model.lm_head(model.model(tokens, use_cache=True)[0][:, -1:]).argmax(-1)

    return PREFILL / seconds(torch, step)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    config, out = sys.argv[1:]
    if os.path.exists(out):
        os.remove(out)  # of another run
    try:
        import torch
        import transformers
    except ImportError as error:
        not_measured(f"there is no module {error.name}")
    if not torch.cuda.is_available():
        not_measured("torch finds no GPU")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    loads = {name: (lambda m, load=load: decode(torch, m, *load)) for name, load in DECODES.items()}
    loads["prefill512"] = lambda m: prefill(torch, m)
    with torch.inference_mode():
        model = model_new(torch, transformers, config)
        lines = []
        for name, load in loads.items():
            try:
                lines.append(f"{name} {load(model):.2f}\n")
                print(lines[-1], end="")
            except (RuntimeError, AttributeError, TypeError) as error:
                print(f"{name}: not measured: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    with open(out + ".part", "w") as file:
        file.writelines(lines)
    os.replace(out + ".part", out)


main()
