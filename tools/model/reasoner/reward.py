"""Trains the reward model on samples of the policy and on solutions with made mistakes: the score at the end of
a step is the chance that the text so far is right. Goes on where its checkpoint ends.

    python3 reward.py DIR --tokens 16e6

DIR has tokenizer.json, policy.pt (where the training begins) and samples.{words,game24}.tsv from `dynasor-bench
reasoner --sample` with the problems they answer beside them as FILE.problems, the first of the stream `reward`.
Every twentieth problem is kept out of the training: on those the ranking is measured while it runs.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import time

import numpy
import torch
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import Tokenizer

import net
import sets
import steps
import vocabulary

LENGTHS = (128, 192, 320)
BATCH_TOKENS = 8192
RATE, WARMUP, DECAY = 2e-3, 0.02, 0.45  # peak, and the shares of the run that rise and fall
WEIGHTS = torch.tensor([1.0, 1.0, 1.0])  # of the marks in the loss
MIX = [("words", 24), ("game24", 20), ("made", 32), ("sums", 24)]  # shares of the rows
HELD_OUT = 20  # one problem in so many


def lines_of(path, columns):
    """The last column may hold anything but a line end: a policy that has learned little writes any byte."""
    with open(path, newline="\n") as f:
        return [line.rstrip("\n").split("\t", columns - 1) for line in f]


def samples_of(folder, task):
    """{problem: {text: [right, times]}} and the rows of the problems."""
    problems = lines_of(os.path.join(folder, f"samples.{task}.tsv.problems"), 3)
    out = {}
    for problem, right, text in lines_of(os.path.join(folder, f"samples.{task}.tsv"), 3):
        text = text.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
        out.setdefault(int(problem), {}).setdefault(text, [int(right), 0])[1] += 1
    return out, problems


class Rows:
    def __init__(self, folder):
        self.marker = steps.Marker(Tokenizer.from_file(os.path.join(folder, "tokenizer.json")))
        self.samples = {task: samples_of(folder, task) for task in ("words", "game24")}
        self.stream = sets.Stream("reward")  # once more, now with the steps
        self.problems = [self.stream.words_problem() for _ in self.samples["words"][1]]
        assert [p.text for p in self.problems] == [row[2] for row in self.samples["words"][1]]

    def sampled(self, task, problem, text, right):
        level, numbers, prompt = self.samples[task][1][problem]
        if task == "words":
            return self.marker.row(prompt, steps.sampled_words(self.problems[problem], text), right)
        return self.marker.row(prompt, steps.sampled_game([int(n) for n in numbers.split()], text), right, asked=False, settled=False)

    def held_out(self, task):
        """[(level, tokens, right, times, problem)] of the problems with right and wrong samples."""
        samples, problems = self.samples[task]
        return [(problems[n][0], self.sampled(task, n, text, right)[0], right, times, n) for n, texts in samples.items() if n % HELD_OUT == HELD_OUT - 1
                and len({right for right, _ in texts.values()}) == 2 for text, (right, times) in texts.items()]

    def endless(self, seed):
        rng = self.stream.rng = random.Random(seed)
        kept = {task: [(n, text, right) for n, texts in samples.items() if n % HELD_OUT != HELD_OUT - 1
                       for text, (right, _) in list(texts.items()) * len({right for right, _ in texts.values()})]
                for task, (samples, _) in self.samples.items()}
        left = {task: [] for task in kept}
        while True:
            kind = rng.choices([t for t, _ in MIX], [w for _, w in MIX])[0]
            if kind == "made":
                p = self.stream.words_problem()
                if p.kind.name == "whole" and rng.random() < 0.4:  # the policy errs more often elsewhere
                    continue
                yield self.marker.row(p.text, steps.stumbled_words(p, rng), None)
            elif kind == "sums":
                yield self.marker.row(None, steps.sums(self.stream.words_problem, rng), None, asked=False)
            else:
                if not left[kind]:
                    left[kind] = list(kept[kind])
                    rng.shuffle(left[kind])
                yield self.sampled(kind, *left[kind].pop())


def batches(rows, seed, queue):
    pools = {n: [] for n in LENGTHS}
    for row in rows.endless(seed):
        length = next((n for n in LENGTHS if len(row[0]) <= n), None)
        if length is None:
            continue
        pools[length].append(row)
        if len(pools[length]) == BATCH_TOKENS // length:
            x = numpy.zeros((len(pools[length]), length), numpy.int64)
            y, w = (numpy.zeros((3, len(pools[length]), length), numpy.float32) for _ in range(2))
            for i, (tokens, marks, weights) in enumerate(pools[length]):
                x[i, :len(tokens)] = tokens
                y[:, i, :len(tokens)], w[:, i, :len(tokens)] = marks, weights
            pools[length] = []
            queue.put((x, y, w))


class Learner(nn.Module):
    """The reward model with what only the training needs. A mistake shows as a token that is not the one the model
    would have written: the lower blocks learn to know the next token, the block after them to compare it with
    the one that came, the last to collect. Left to find this by itself it does not, in so few tokens."""

    KNOWS, COMPARES = 4, 5  # blocks

    def __init__(self):
        super().__init__()
        self.net, self.token = net.Net(scores=True), nn.Linear(net.HIDDEN, 1)
        self.norms = nn.ParameterList([torch.ones(net.HIDDEN) for _ in range(2)])
        for layer in (self.net.score, self.token):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, y, w):
        norm = lambda t, scale: F.rms_norm(t, (net.HIDDEN,), scale, net.EPSILON)
        h, turns = self.net.embed(x), net.rope(torch.arange(x.shape[1], device=x.device))
        for i, block in enumerate(self.net.blocks, 1):
            h = block(h, *turns)
            if i == self.KNOWS:
                knows = F.linear(norm(h, self.norms[0]), self.net.embed.weight).float()
            if i == self.COMPARES:
                compares = self.token(norm(h, self.norms[1])).squeeze(-1).float()
        scores = self.net.score(norm(h, self.net.norm)).squeeze(-1).float()
        losses = [F.binary_cross_entropy_with_logits(scores, y[steps.TEXT], reduction="none"),
                  F.binary_cross_entropy_with_logits(compares, y[steps.TOKEN], reduction="none"),
                  F.cross_entropy(knows.flatten(0, 1), y[steps.NEXT].long().flatten(), reduction="none").view_as(scores)]
        return torch.stack([(loss * v).sum() / v.sum().clamp(min=1) for loss, v in zip(losses, w)])


def ranking(model, rows, device):
    """Over pairs (right, wrong) of one problem, by level and in all: how often the right one scores higher."""
    scores = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
        for first in range(0, len(order), 64):
            part = order[first:first + 64]
            x = torch.zeros(len(part), max(len(rows[i][1]) for i in part), dtype=torch.long)
            for k, i in enumerate(part):
                x[k, :len(rows[i][1])] = torch.tensor(rows[i][1])
            h = model.hidden(x.to(device))
            scores += [(i, float(model.score(h[k, len(rows[i][1]) - 1].float()))) for k, i in enumerate(part)]
    by_problem = {}
    for i, score in scores:
        level, _, right, times, problem = rows[i]
        by_problem.setdefault(problem, (level, [], []))[2 if right else 1].append((score, times))
    won, pairs = {}, {}
    for level, wrong, right in by_problem.values():
        for a, n in right:
            for b, m in wrong:
                for key in (level, "all"):
                    pairs[key] = pairs.get(key, 0) + n * m
                    won[key] = won.get(key, 0) + n * m * (1.0 if a > b else 0.5 if a == b else 0.0)
    return " ".join(f"{key}: {won[key] / pairs[key]:.3f}" for key in sorted(pairs))


def main():
    parser = argparse.ArgumentParser(description="Trains the reward model.")
    parser.add_argument("folder")
    parser.add_argument("--tokens", type=float, default=16e6)
    parser.add_argument("--name", default="reward", help="of the checkpoint and the exported folder")
    parser.add_argument("--pilot", action="store_true", help="of a policy of a million parameters")
    parser.add_argument("--every", type=float, default=240, help="seconds from checkpoint to checkpoint")
    args = parser.parse_args()
    if args.pilot:
        net.shrink()
    device = net.device()
    torch.manual_seed(2)
    learner = Learner().to(device)
    model = learner.net
    matrices = [p for b in model.blocks for p in b.parameters() if p.dim() == 2]
    others = [p for p in learner.parameters() if not any(p is m for m in matrices)]
    optimizers = [torch.optim.Muon(matrices, lr=RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    path = os.path.join(args.folder, f"{args.name}.pt")
    done = 0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        learner.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        done = state["done"]
        if done + BATCH_TOKENS >= args.tokens:
            return
    else:
        model.load_state_dict(torch.load(os.path.join(args.folder, "policy.pt"), map_location="cpu", weights_only=False)["model"], strict=False)
        learner.norms[0].data.copy_(model.norm.data)
    rows = Rows(args.folder)
    held_out = {task: rows.held_out(task) for task in rows.samples}
    print(", ".join(f"{task}: {sum(map(len, samples.values()))} texts, {len(held_out[task])} kept out" for task, (samples, _) in rows.samples.items()), flush=True)
    forked = multiprocessing.get_context("fork")  # the rows are not to be copied; the child computes nothing on a GPU
    queue = forked.Queue(8)
    maker = forked.Process(target=batches, args=(rows, f"reward{done}", queue), daemon=True)
    maker.start()
    weights = WEIGHTS.to(device)
    compiled = torch.compile(learner, dynamic=False)

    def save():
        """The checkpoint last: it says that all before it is there."""
        folder = os.path.join(args.folder, args.name)
        net.export(model, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(args.folder, name), folder)
        torch.save({"model": learner.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "done": done}, path + ".new")
        os.replace(path + ".new", path)
        for task, kept in held_out.items():
            print(f"{done / 1e6:7.2f} M tokens  {task} by level  {ranking(model, kept, device)}", flush=True)

    began, last, shown, mean, first, over = time.time(), time.time(), time.time(), None, done, False
    while not over:
        x, y, w = (torch.from_numpy(t).to(device) for t in queue.get())
        share = max(done, BATCH_TOKENS) / args.tokens
        for o in optimizers:
            for g in o.param_groups:
                g["lr"] = RATE * max(0.0, min(share / WARMUP, 1.0, (1.0 - share) / DECAY))
        with torch.autocast(device.type, torch.bfloat16):
            losses = compiled(x, y, w)
        (losses * weights).sum().backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        done += x.numel()
        mean = losses.detach() if mean is None else 0.98 * mean + 0.02 * losses.detach()
        over = done + BATCH_TOKENS >= args.tokens
        if time.time() - shown > 30 or over:
            shown = time.time()
            speed = (done - first) / (time.time() - began)
            print(f"{done / 1e6:7.2f} of {args.tokens / 1e6:.1f} M tokens  text, token, next {' '.join(f'{v:.4f}' for v in mean.tolist())}  {speed:.0f} tokens/s  "
                  f"{(args.tokens - done) / speed / 60:.0f} min left", flush=True)
        if time.time() - last > args.every or over:
            save()
            last = time.time()
    maker.terminate()


if __name__ == "__main__":
    main()
