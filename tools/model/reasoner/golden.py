"""What transformers computes with the shipped models, in float32 with eager attention: logits and a greedy
continuation of the policy for a problem of each task, scores of the reward model. The format is that of tests/golden/models/README.md.
And whole greedy texts of problems of each level of each task, for `dynasor-bench reasoner --part greedy`.

    python3 golden.py MODELS TASKS OUT     MODELS/{policy,reward}; writes OUT/reasoner-*/golden.bin, OUT/reasoner-policy/greedy.tsv

A line of greedy.tsv: task, line of its test set from 0, tokens with the end, and for each of them by how much its logit
leads the next, in 1/10000 of it.
"""

import argparse
import os
import struct

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForTokenClassification
from transformers.models.llama import modeling_llama

import long
import vocabulary

GREEDY_TOKENS = 64
# Whole texts: task, file, what comes before the problem, lines (levels follow each other there), tokens at most.
TEXTS = [("words", "words", "", range(7), 320), ("game24", "game24", "", range(4), 112), ("long", "words", long.ASK, range(7, 14), 768)]
LOGITS, SCORES = 0, 1
eager = modeling_llama.eager_attention_forward
greatest = [0.0]


def watched(module, query, key, value, mask, scaling, **more):
    repeated = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    greatest[0] = max(greatest[0], float((query @ repeated.transpose(2, 3) * scaling).tril().abs().max()))
    return eager(module, query, key, value, mask, scaling, **more)


def write(path, kind, ids, values, written, gaps):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(struct.pack("<8sIIII", b"DYNGOLD1", kind, len(ids), values.shape[1], len(written)))
        f.write(struct.pack(f"<{len(ids)}I", *ids))
        f.write(values.float().contiguous().numpy().astype("<f4").tobytes())
        f.write(struct.pack(f"<{len(written)}I", *written))
        f.write(struct.pack(f"<{len(gaps)}f", *gaps))


def prompt_ids(tokenizer, problem):
    text = tokenizer.apply_chat_template([{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def greedy_text(policy, ids, limit):
    """(tokens up to the end, their leads)."""
    tokens, leads, kept, new = [], [], None, ids
    with torch.no_grad():
        while len(tokens) < limit and vocabulary.END not in tokens:
            out = policy(torch.tensor([new]), past_key_values=kept, use_cache=True)
            kept, logits = out.past_key_values, out.logits[0, -1]
            top = torch.topk(logits, 2)
            new = [int(top.indices[0])]
            tokens += new
            leads.append(int(10000 * float((top.values[0] - top.values[1]) / logits.abs().max())))
    return tokens, leads


def greedy_texts(tokenizer, policy, tasks, path):
    with open(path + ".new", "w") as out:
        for task, file, ask, lines, limit in TEXTS:
            with open(os.path.join(tasks, f"{file}.test.tsv")) as f:
                rows = f.readlines()
            for line in lines:
                tokens, leads = greedy_text(policy, prompt_ids(tokenizer, ask + rows[line].rstrip("\n").split("\t")[2]), limit)
                print(f"{task} {line}: {len(tokens)} tokens, least lead {min(leads) / 1e4}", flush=True)
                out.write(f"{task}\t{line}\t{' '.join(map(str, tokens))}\t{' '.join(map(str, leads))}\n")
    os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(description="Writes the golden values of the shipped models.")
    parser.add_argument("models")
    parser.add_argument("tasks")
    parser.add_argument("out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    modeling_llama.eager_attention_forward = watched
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(args.models, "policy"))
    policy = AutoModelForCausalLM.from_pretrained(os.path.join(args.models, "policy"), dtype=torch.float32, attn_implementation="eager").eval()
    reward = LlamaForTokenClassification.from_pretrained(os.path.join(args.models, "reward"), dtype=torch.float32, attn_implementation="eager").eval()
    for name, task, ask in (("reasoner-policy-game24", "game24", ""), ("reasoner-policy-long", "words", long.ASK), ("reasoner-policy", "words", "")):
        with open(os.path.join(args.tasks, f"{task}.test.tsv")) as f:
            problem = ask + f.readlines()[4].rstrip("\n").split("\t")[2]
        ids = prompt_ids(tokenizer, problem)
        greatest[0] = 0.0
        with torch.no_grad():
            logits = policy(torch.tensor([ids]), use_cache=False).logits[0]
            all_ids, gaps = list(ids), []
            for _ in range(GREEDY_TOKENS):
                top = torch.topk(policy(torch.tensor([all_ids]), use_cache=False).logits[0, -1], 2)
                gaps.append(float(top.values[0] - top.values[1]))
                all_ids.append(int(top.indices[0]))
        print(tokenizer.decode(all_ids), f"\n{name}: greatest attention score {greatest[0]:.1f}")
        write(os.path.join(args.out, name, "golden.bin"), LOGITS, ids, logits, all_ids[len(ids):], gaps)
    greedy_texts(tokenizer, policy, args.tasks, os.path.join(args.out, "reasoner-policy", "greedy.tsv"))
    greatest[0] = 0.0
    with torch.no_grad():
        scores = torch.sigmoid(reward(torch.tensor([all_ids]), use_cache=False).logits[0])
    print(f"of the reward model {greatest[0]:.1f}; last scores {scores[-8:, 0].tolist()}")
    write(os.path.join(args.out, "reasoner-reward", "golden.bin"), SCORES, all_ids, scores, [], [])


if __name__ == "__main__":
    main()
