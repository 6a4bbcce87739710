"""The tokenizer: byte-level BPE of 1,024 entries, digits apart, learned from the training stream.

    python3 vocabulary.py DIR    writes tokenizer.json and tokenizer_config.json
"""

import argparse
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import sets

ENTRIES = 1024
SPECIAL = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, USER, ASSISTANT, END = range(4)
# The split pattern of Qwen2: words with their space, digits one by one, marks, line ends.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Turns as Phi-3.5-mini-instruct writes them.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")


def prompt(text):
    return f"<|user|>\n{text}<|end|>\n<|assistant|>\n"


def learn(samples):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    stream = sets.Stream("vocabulary")

    def texts():
        for _ in range(samples):
            question, answer = stream.sample()
            yield question
            yield "".join(answer) if isinstance(answer, tuple) else answer

    tokenizer.train_from_iterator(texts(), trainers.BpeTrainer(
        vocab_size=ENTRIES, special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description="Learns the tokenizer.")
    parser.add_argument("out")
    parser.add_argument("--samples", type=int, default=30000, help="of the stream, to learn from")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    learn(args.samples).save(os.path.join(args.out, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|endoftext|>", "add_bos_token": False,
              "clean_up_tokenization_spaces": False, "model_max_length": 2048, "chat_template": TEMPLATE}
    with open(os.path.join(args.out, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=2, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
