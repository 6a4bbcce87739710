"""Trains the policy model on the endless stream of samples; goes on where its checkpoint ends.

    python3 train.py DIR --tokens 60e6     DIR has tokenizer.json; writes policy.pt and DIR/policy
"""

import argparse
import os
import queue
import shutil
import threading
import time

import torch
from tokenizers import Tokenizer

import long
import net
import sets
import vocabulary

LENGTHS = (128, 192, 320, 640)
BATCH_TOKENS = 8192
QUESTION_WEIGHT = 0.05
RATE, WARMUP, DECAY = 3e-3, 0.01, 0.35  # peak, and the shares of the run that rise and fall


def encode(tokenizer, question, answer):
    """(tokens, weights of each as a target)."""
    ids = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    head = ids(vocabulary.prompt(question))
    if isinstance(answer, tuple):
        cut = answer[0][:-len(long.PROBE)]
        middle, tail = ids(cut) + ids(long.PROBE), ids(answer[1])
        return head + middle + tail + [vocabulary.END], [QUESTION_WEIGHT] * len(head) + [0.0] * len(middle) + [1.0] * (len(tail) + 1)
    body = ids(answer) + [vocabulary.END]
    return head + body, [QUESTION_WEIGHT] * len(head) + [1.0] * len(body)


def batches(tokenizer, seed):
    """Batches of one length each: (tokens, targets, weights)."""
    stream = sets.Stream(seed)
    pools = {n: [] for n in LENGTHS}
    while True:
        tokens, weights = encode(tokenizer, *stream.sample())
        length = next((n for n in LENGTHS if len(tokens) <= n + 1), None)
        if length is None:
            continue
        pools[length].append((tokens, weights))
        if len(pools[length]) == BATCH_TOKENS // length:
            rows = pools[length]
            pools[length] = []
            x, w = torch.zeros(len(rows), length + 1, dtype=torch.long), torch.zeros(len(rows), length + 1)
            for i, (t, v) in enumerate(rows):
                x[i, :len(t)], w[i, :len(t)] = torch.tensor(t), torch.tensor(v)
            yield x[:, :-1].contiguous(), x[:, 1:].contiguous(), w[:, 1:].contiguous()


def ahead(generator):
    """The generator's items, made by a thread that is a few ahead."""
    q = queue.Queue(4)
    threading.Thread(target=lambda: [q.put(item) for item in generator], daemon=True).start()
    while True:
        yield q.get()


def rate(done):
    """Of the whole run's share that is done: up, level, down."""
    return RATE * max(0.0, min(done / WARMUP, 1.0, (1.0 - done) / DECAY))


def main():
    parser = argparse.ArgumentParser(description="Trains the policy model.")
    parser.add_argument("folder")
    parser.add_argument("--tokens", type=float, default=60e6)
    parser.add_argument("--pilot", action="store_true", help="a model of a million parameters")
    parser.add_argument("--every", type=float, default=300, help="seconds from checkpoint to checkpoint")
    args = parser.parse_args()
    if args.pilot:
        net.shrink()
    device = net.device()
    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(os.path.join(args.folder, "tokenizer.json"))
    model = net.Net().to(device)
    matrices = [p for b in model.blocks for p in b.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = [torch.optim.Muon(matrices, lr=RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    path = os.path.join(args.folder, "policy.pt")
    done = steps = 0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        done, steps = state["done"], state["steps"]
        if done + BATCH_TOKENS >= args.tokens and os.path.exists(os.path.join(args.folder, "policy", "model.safetensors")):
            return
    compiled = torch.compile(model, dynamic=False)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from {done / 1e6:.1f} M tokens", flush=True)

    def save():
        """The checkpoint last: it says that all before it is there."""
        folder = os.path.join(args.folder, "policy")
        net.export(model, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(args.folder, name), folder)
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "done": done, "steps": steps}, path + ".new")
        os.replace(path + ".new", path)

    began, last, shown, mean, first = time.time(), time.time(), time.time(), None, done
    for x, y, w in ahead(batches(tokenizer, f"policy{done}")):
        for o in optimizers:
            for g in o.param_groups:
                g["lr"] = rate(max(done, BATCH_TOKENS) / args.tokens)
        x, y, w = (t.to(device) for t in (x, y, w))
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(x, y, w)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        done, steps = done + x.numel(), steps + 1
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        over = done + BATCH_TOKENS >= args.tokens
        if time.time() - shown > 30 or over:
            shown = time.time()
            speed = (done - first) / (time.time() - began)
            print(f"{done / 1e6:7.2f} of {args.tokens / 1e6:.0f} M tokens  loss {mean:.4f}  {speed:.0f} tokens/s  {(args.tokens - done) / speed / 60:.0f} min left", flush=True)
        if time.time() - last > args.every or over:
            save()
            last = time.time()
        if over:
            break


if __name__ == "__main__":
    main()
