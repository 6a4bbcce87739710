#!/usr/bin/env python3
"""Writes tests/golden/tokenizers: small tokenizers of every kind that the daemon reads, nasty texts, and
what the `tokenizers` package makes of them. Needs that package and jinja2; run it from
the repository's root; with the argument chat, only that file is made. All text is made up here, from a fixed seed.

  NAME.json  a tokenizer.json
  texts      one text a line, its bytes in hexadecimal
  NAME.ids   for each text: ids | ids with special tokens as text, or "=" | decoded text in
             hexadecimal, "=" when it is the text. Then lines "decode ids | text".
  chat       for each family and conversation: family tokenizer roles texts... = rendered | ids; texts in
             hexadecimal, "-" for none of a tokenizer
Ids are base 36, with a comma between them. Seeds of the fuzz targets go to tests/fuzz/corpus.

The templates below say what those of the families write for the system, users and assistants, as their
model cards describe it; they are shorter than the published ones, which do more (make_chats.py has those).
"""
import json
import os
import random
import sys
import unicodedata

import jinja2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
import tokenizers

OUT = "tests/golden/tokenizers"
R = random.Random(20240229)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- text to train on ----------------------------------------------------------------------------

WORDS = """the of and to in a is that it for was on as with he be by at this not are or from have an they
which one you had but all were we when there can more if out so said what up its about into than them only
other new some could time these two may then do first any my now such like our over man me even most made
after also did many before must through back years where much your way well down should because each just
those people how too little state good very make world still own see men work long get here between both
life being under never day same another know while last might us great old year off come since against go
came right used take three prompt answer think therefore hence proof equals number theorem function return
int void struct const char static include while print self def import lambda None True False""".split()
SCRIPTS = [(0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x621, 0x64A), (0x905, 0x939),
           (0xE01, 0xE2E), (0x3041, 0x3093), (0x30A1, 0x30F6), (0xAC00, 0xD7A3), (0x4E00, 0x9FA5),
           (0x10D0, 0x10F0), (0x531, 0x556), (0x1F600, 0x1F64F)]


def corpus():
    for _ in range(3000):
        words = [R.choice(WORDS) for _ in range(R.randint(3, 14))]
        for i in range(len(words)):
            roll = R.random()
            if roll < 0.08:
                words[i] = words[i].capitalize()
            elif roll < 0.10:
                words[i] = words[i].upper()
            elif roll < 0.14:
                words[i] = str(R.randint(0, 10 ** R.randint(1, 6)))
            elif roll < 0.18:
                words[i] += R.choice(["'s", "'t", "'re", "'ll", "'d", "'ve", "'m"])
            elif roll < 0.22:
                words[i] += R.choice([",", ".", "!", "?", ":", ";", "()", "[]", " =", " +=", "->", "..."])
            elif roll < 0.26:
                low, high = R.choice(SCRIPTS)
                low = R.randint(low, max(low, high - 6))
                words[i] = "".join(chr(R.randint(low, min(high, low + 6))) for _ in range(R.randint(1, 5)))
        yield R.choice(["", "", "    ", "\t", "\n\n", "  "]) + " ".join(words) + R.choice([".", "\n", ";\n", ""])


CORPUS = list(corpus())

# ---- tokenizers ----------------------------------------------------------------------------------


def added(id, content, special=True, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": not special, "special": special}
    token.update(flags)
    return token


def template(before, after=()):
    tokens = {text: {"id": text, "ids": [id], "tokens": [text]} for text, id in [*before, *after]}
    piece = lambda t: {"SpecialToken": {"id": t[0], "type_id": 0}}
    single = [*map(piece, before), {"Sequence": {"id": "A", "type_id": 0}}, *map(piece, after)]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}, *map(piece, after)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def document(model, added_tokens, normalizer, pre_tokenizer, post_processor, decoder):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": decoder, "model": model}


def bpe(vocab, merges, **options):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, **options, "vocab": vocab, "merges": merges}


def train(pre_tokenizer, normalizer=None, alphabet=(), size=1400):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizer
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), limit_alphabet=300,
                                                      show_progress=False))
    model = json.loads(t.to_str())["model"]
    return model["vocab"], model["merges"]


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        BYTE_LEVEL]}


def byte_level(pattern, extra, size=1400, words=(), **options):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    vocab, merges = train(pre, alphabet=pre_tokenizers.ByteLevel.alphabet(), size=size)
    for word in words:
        vocab[word] = len(vocab)
    return bpe(vocab, merges, **options), [added(len(vocab) + i, a) for i, a in enumerate(extra)]


def make_gpt2():
    model, extra = byte_level(GPT2, ["<|endoftext|>"])
    extra[0]["normalized"] = True
    model.update(continuing_subword_prefix="", end_of_word_suffix="")
    model["merges"] = [" ".join(m) for m in model["merges"]]  # the older form
    return document(model, extra, None,
                    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
                    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
                    {**BYTE_LEVEL, "use_regex": True})


def make_llama3():
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
             "<|finetune_right_pad_id|>"]
    # The words are those that no merge makes: ignore_merges alone finds them.
    model, extra = byte_level(LLAMA3, names, words=["xyzzy", "Ġplugh", "1000", "'Å¿"], ignore_merges=True)
    post = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        template([(names[0], extra[0]["id"])])]}
    return document(model, extra, None, split(LLAMA3), post, {**BYTE_LEVEL, "use_regex": True})


def make_qwen2():
    model, extra = byte_level(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    next_id = extra[-1]["id"] + 1
    extra += [added(next_id, "<tool_call>", False, normalized=False),
              added(next_id + 1, "<think>", False, normalized=False),
              added(next_id + 2, "</think>", False, normalized=False),
              added(next_id + 3, "café", False),  # looked for after NFC
              added(next_id + 4, "whole", False, single_word=True),
              added(next_id + 5, "<left>", False, lstrip=True, normalized=False),
              added(next_id + 6, "<|im_end|>!", False, normalized=False),
              added(next_id + 7, "<right>", False, rstrip=True, normalized=False)]
    return document(model, extra, {"type": "NFC"}, split(QWEN2),
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                     "use_regex": False},
                    {**BYTE_LEVEL, "use_regex": False})


def make_tekken():
    model, extra = byte_level(TEKKEN, ["<s>", "</s>", "[INST]", "[/INST]"])
    return document(model, extra, None, split(TEKKEN), template([("<s>", extra[0]["id"])]),
                    {**BYTE_LEVEL, "use_regex": True})


def sentencepiece(first, size=1400):
    """Tokens as SentencePiece numbers them: special ones, 256 bytes, merges, characters."""
    marks = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    vocab, merges = train(pre_tokenizers.Metaspace(prepend_scheme="never"), marks, size=size)
    made = {a + b for a, b in merges}
    order = first + ["<0x%02X>" % b for b in range(256)]
    order += [a + b for a, b in merges if not (a + b in order)]
    order = list(dict.fromkeys(order)) + sorted(set(vocab) - made)
    return {text: id for id, text in enumerate(order)}, merges


STRIP = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def make_llama2():
    vocab, merges = sentencepiece(["<unk>", "<s>", "</s>"])
    model = bpe(vocab, [" ".join(m) for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    extra = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    marks = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    return document(model, extra, marks, None, template([("<s>", 1)]), STRIP)


def make_mistral():
    vocab, merges = sentencepiece(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    extra = [added(i, t) for i, t in enumerate(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])]
    pre = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return document(model, extra, None, pre, template([("<s>", 1)]), STRIP)


def make_phi3():
    document_ = make_llama2()
    size = len(document_["model"]["vocab"])
    document_["added_tokens"] += [added(size + i, t, rstrip=True) for i, t in enumerate(
        ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"])]
    document_["post_processor"] = template([])
    return document_


def make_gemma():
    vocab, merges = sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n\n",
                                   "<table>"])
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    extra = [added(i, t) for i, t in enumerate(["<pad>", "<eos>", "<bos>", "<unk>"])]
    extra += [added(4 + i, t, i < 2, normalized=False) for i, t in enumerate(
        ["<start_of_turn>", "<end_of_turn>", "\n\n", "<table>"])]
    return document(model, extra, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                     "invert": False},
                    template([("<bos>", 2)]), {"type": "Sequence", "decoders": STRIP["decoders"][:3]})


def make_unknown():
    """No byte fallback: unknown characters, joined or not; Metaspace that splits; no merges of `the`."""
    vocab, merges = sentencepiece(["<unk>"])
    vocab = {t: i for i, t in enumerate(t for t in vocab if not t.startswith("<0x"))}
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True)
    pre = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return document(model, [added(0, "<unk>")],
                    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}, pre,
                    None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                           "split": True})


def make_wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=1200, special_tokens=specials,
                                                            show_progress=False))
    vocab = json.loads(t.to_str())["model"]["vocab"]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": vocab}
    extra = [added(i, text) for i, text in enumerate(specials)]
    extra[4]["lstrip"] = True
    return document(model, extra, {"type": "BertNormalizer", "clean_text": True,
                                   "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
                    {"type": "BertPreTokenizer"}, template([("[CLS]", 2)], [("[SEP]", 3)]),
                    {"type": "WordPiece", "prefix": "##", "cleanup": True})


def make_cased():
    document_ = make_wordpiece()
    document_["normalizer"].update(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    document_["decoder"]["cleanup"] = False
    document_["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    return document_


MAKERS = [make_gpt2, make_llama3, make_qwen2, make_tekken, make_llama2, make_mistral, make_phi3, make_gemma,
          make_unknown, make_wordpiece, make_cased]

# ---- texts ---------------------------------------------------------------------------------------

SPECIALS = ["xyzzy", " plugh", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|im_end|>!",
            "<s>", "</s>", "[INST]", "[/INST]", "<|user|>", "<|end|>", "<|assistant|>", "<start_of_turn>",
            "<end_of_turn>", "<think>", "</think>", "<tool_call>", "<left>", "<right>", "<right>  <left>", "whole", "café", "cafe\u0301",
            "[CLS]", "[SEP]", "[MASK]", "<unk>", "<bos>", "<table>", "\n\n", "<0x41>", "<0xE2>", "▁", "▁▁",
            "Ġ", "##ing"]
SPACES = [" ", "  ", "\t", "\n", "\r", "\r\n", "\n\n", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003",
          "\u2028", "\u2029", "\u202f", "\u3000", "\u200b", "\ufeff", "   ", "\x1c", "\x1f"]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "🏴\U000e0067\U000e0062\U000e007f", "❤️", "❤", "1️⃣", "🧑🏿‍🚀", "\u200d", "\ufe0f"]
CONTRACTIONS = ["'s", "'S", "'t", "'RE", "'Ve", "'M", "'lL", "'d", "'ſ", "’s", "''s", "'x", "'", "'r", "'L"]
BLOCKS = [(0x20, 0x7e), (0xa1, 0xff), (0x100, 0x17f), (0x180, 0x24f), (0x250, 0x2af), (0x2b0, 0x2ff),
          (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x52f), (0x531, 0x58a), (0x591, 0x5f4), (0x600, 0x6ff),
          (0x700, 0x74f), (0x780, 0x7b1), (0x7c0, 0x7fa), (0x900, 0x97f), (0x980, 0x9fb), (0xa01, 0xa76),
          (0xa81, 0xaff), (0xb01, 0xb77), (0xb82, 0xbfa), (0xc00, 0xc7f), (0xc80, 0xcf2), (0xd00, 0xd7f),
          (0xd81, 0xdf4), (0xe01, 0xe5b), (0xe81, 0xedf), (0xf00, 0xfda), (0x1000, 0x109f), (0x10a0, 0x10ff),
          (0x1100, 0x11ff), (0x1200, 0x137c), (0x13a0, 0x13fd), (0x1401, 0x167f), (0x1680, 0x169c),
          (0x16a0, 0x16f8), (0x1780, 0x17f9), (0x1800, 0x18aa), (0x1e00, 0x1eff), (0x1f00, 0x1ffe),
          (0x2000, 0x206f), (0x2070, 0x209c), (0x20a0, 0x20bf), (0x20d0, 0x20f0), (0x2100, 0x218b),
          (0x2190, 0x23ff), (0x2460, 0x24ff), (0x2500, 0x27bf), (0x2c00, 0x2c5e), (0x2c60, 0x2c7f),
          (0x2e80, 0x2fd5), (0x3000, 0x303f), (0x3041, 0x30ff), (0x3105, 0x318e), (0x3200, 0x33ff),
          (0x3400, 0x4db5), (0x4e00, 0x9fa5), (0xa000, 0xa48c), (0xa640, 0xa6f7), (0xa720, 0xa7bf),
          (0xa840, 0xa877), (0xac00, 0xd7a3), (0xe000, 0xe010), (0xf900, 0xfaff), (0xfb00, 0xfb4f),
          (0xfb50, 0xfdfd), (0xfe00, 0xfe6b), (0xff01, 0xffee), (0xfff9, 0xfffd), (0x10000, 0x100fa),
          (0x10300, 0x1034a), (0x10400, 0x1049d), (0x12000, 0x12399), (0x13000, 0x1342e),
          (0x1d000, 0x1d1e8), (0x1d400, 0x1d7ff), (0x1f000, 0x1f0ff), (0x1f100, 0x1f1ff),
          (0x1f300, 0x1f6d0), (0x20000, 0x2a6d6), (0x2a700, 0x2b734), (0x2b740, 0x2b81d),
          (0x2b820, 0x2cea1), (0x2f800, 0x2fa1d), (0xe0100, 0xe01ef)]
BAD = [b"\xff", b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xed\xa0\x80",
       b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"\xe0\x80\x80", b"\xc3\x28", b"\xa0\xa1"]


def old(c):
    """Assigned, as far as this Python knows."""
    return c <= 0x10ffff and unicodedata.category(chr(c)) not in ("Cn", "Cs")


def from_block(count):
    low, high = R.choice(BLOCKS)
    chars = [c for c in (R.randint(low, high) for _ in range(count * 4)) if old(c)]
    return "".join(map(chr, chars[:count]))


def marks(count):
    pool = [0x300, 0x301, 0x302, 0x308, 0x30a, 0x316, 0x323, 0x327, 0x328, 0x331, 0x338, 0x345, 0x34f, 0x35c,
            0x591, 0x5b0, 0x64b, 0x651, 0x93c, 0x3099, 0x1d165, 0x20d0]
    return R.choice(["a", "e", "o", "A", "か", "ا", "", " "]) + "".join(chr(R.choice(pool)) for _ in range(count))


def piece():
    roll = R.randrange(13)
    if roll < 3:
        return R.choice(WORDS) + R.choice(["", " ", " ", ", ", ".", "'s ", "\n"])
    return [lambda: from_block(R.randint(1, 8)), lambda: R.choice(SPECIALS), lambda: R.choice(SPACES),
            lambda: R.choice(EMOJI), lambda: R.choice(CONTRACTIONS), lambda: marks(R.randint(1, 5)),
            lambda: str(R.randrange(10 ** R.randint(1, 12))), lambda: chr(R.randrange(0, 0xa0)),
            lambda: R.choice(WORDS).title() + R.choice(WORDS).upper(),
            lambda: R.choice(["==", "!=", "->", "//", "/*", "\\n", "$x^2$", "...", "({[", "#!/", "~~", "\"\""])][roll - 3]()


def texts():
    out = [b"", b" ", b"\n", b"a", b"Hello, world!", b"\x00", b"\x00a\x00", b"0", b"'",
           "a\U0002b830b a\U0002b930b \u0378".encode(), "▁".encode()]
    for low, high in BLOCKS:
        for n in (1, 3, 12):
            chars = [c for c in (R.randint(low, high) for _ in range(n * 4)) if old(c)][:n]
            out.append("".join(map(chr, chars)).encode())
    for list_ in (SPECIALS, SPACES, EMOJI, CONTRACTIONS):
        for one in list_:
            out += [one.encode(), ("x" + one + "y").encode(), (" " + one + " z").encode(),
                    (one + one).encode(), (one + R.choice(list_)).encode()]
    for n in range(0, 40):
        out += [b" " * n + b"x", b"x" + b"\n" * n, b"1" * n, b"a" * n, b"\t" * n + b"\n ", b"ab" * n,
                ("é" * n).encode(), ("e\u0301" * n).encode(), b"9" * n + b" " + b"0" * n,
                b"".join(R.choice([b" ", b"\n", b"\t", b"\r"]) for _ in range(n)) + b"if"]
    for n in (64, 100, 101, 200, 300):
        out += [b"a" * n, b" " * n, b"\n" * n, b"7" * n, b"-" * n, ("あ" * n).encode(), b"the" * (n // 3),
                marks(n // 2).encode(), b"<" * n, b"<|" * (n // 2)]
    for bad in BAD:
        out += [bad, b"a" + bad + b"b", bad * 3, b" " + bad + b" \n", "é".encode() + bad, bad + "日本".encode()]
    for _ in range(100):
        out.append(bytes(R.randrange(256) for _ in range(R.randint(1, 24))))
    while len(out) < 2600:
        text = "".join(piece() for _ in range(R.randint(2, 9))).encode()
        if R.random() < 0.05:
            at = R.randrange(len(text) + 1)
            text = text[:at] + R.choice(BAD) + text[at:]
        out.append(text)
    return list(dict.fromkeys(out))


# ---- chat ----------------------------------------------------------------------------------------

CHATML = ("{% for m in messages %}{% if loop.first and m.role != 'system' and default %}<|im_start|>system\n"
          "{{ default }}<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
          "{% endfor %}<|im_start|>assistant\n")
LLAMA3_CHAT = ("<|begin_of_text|>{% if dated %}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge "
               "Date: December 2023\nToday Date: 26 Jul 2024\n\n{% if messages[0].role == 'system' %}"
               "{{ messages[0].content|trim }}{% endif %}<|eot_id|>{% endif %}{% for m in messages %}"
               "{% if not (dated and m.role == 'system') %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
               "{{ m.content|trim }}<|eot_id|>{% endif %}{% endfor %}"
               "<|start_header_id|>assistant<|end_header_id|>\n\n")
LLAMA2_CHAT = ("{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
               "{% set ns.s = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}{% elif m.role == 'user' %}"
               "<s>[INST] {{ (ns.s + m.content).strip() }} [/INST]{% set ns.s = '' %}{% else %}"
               " {{ m.content.strip() }} </s>{% endif %}{% endfor %}")
MISTRAL1_CHAT = ("<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
                 "{{ m.content }}</s>{% endif %}{% endfor %}")
MISTRAL3_CHAT = ("<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %}"
                 " {{ m.content|trim }}</s>{% endif %}{% endfor %}")
GEMMA_CHAT = ("<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
              "{{ m.content|trim }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n")
PHI3_CHAT = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}<|assistant|>\n"
DEEPSEEK_CHAT = ("<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
                 "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% else %}"
                 "{{ m.content }}{% endif %}{% endfor %}<｜Assistant｜>{{ think }}")
CHATS = [  # family, template, its values, tokenizer, has a system message
    ("llama-2", LLAMA2_CHAT, {}, "llama2", True),
    ("llama-3", LLAMA3_CHAT, {}, "llama3", True),
    ("llama-3.1", LLAMA3_CHAT, {"dated": True}, "llama3", True),
    ("mistral-v1", MISTRAL1_CHAT, {}, "llama2", False),
    ("mistral-v3", MISTRAL3_CHAT, {}, "mistral", False),
    ("qwen2", CHATML, {"default": "You are a helpful assistant."}, "qwen2", True),
    ("qwen2.5", CHATML,
     {"default": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}, "qwen2", True),
    ("qwen3", CHATML, {}, "qwen2", True),
    ("gemma", GEMMA_CHAT, {}, "gemma", False),
    ("phi-3", PHI3_CHAT, {}, "phi3", True),
    ("deepseek-r1", DEEPSEEK_CHAT, {}, "-", True),
    ("deepseek-r1-think", DEEPSEEK_CHAT, {"think": "<think>\n"}, "-", True),
    ("chatml", CHATML, {}, "qwen2", True)]
CHAT_TEXTS = ["Hi", "What is 17 * 23?", "  two lines\nand spaces \t\n", "\u3000日本語\u2003", "café cafe\u0301 é\u0323",
              "'s it", "0123456789", "👩‍👩‍👧‍👦", "x" * 40, "a b  c   d", "\x00", "end.\n", ""]


def conversations(system):
    for text in CHAT_TEXTS:
        yield [("user", text)]
    for _ in range(12):
        pick = lambda: R.choice(CHAT_TEXTS)
        turns = [("user", pick())]
        for _ in range(R.randrange(3)):
            turns += [("assistant", pick()), ("user", pick())]
        if system and R.random() < 0.7:
            # What Llama 2 strips from the front of the system message is put after a marker here.
            turns.insert(0, ("system", pick().strip() or "Be brief."))
        yield turns


def chat_golden(tokenizers_by_name):
    lines = []
    for family, template_, values, name, system in CHATS:
        render = jinja2.Environment(keep_trailing_newline=True).from_string(template_)
        for turns in conversations(system):
            text = render.render(messages=[{"role": r, "content": c} for r, c in turns], **values)
            ids = ""
            if name != "-":
                t = Tokenizer.from_str(json.dumps(tokenizers_by_name[name]))
                ids = spell(t.encode(text, add_special_tokens=False).ids)
            lines.append("%s %s %s %s = %s|%s" % (family, name, "".join(r[0] for r, _ in turns),
                                                 " ".join(c.encode().hex() or "." for _, c in turns),
                                                 text.encode().hex(), ids))
    return "\n".join(lines) + "\n"


# ---- writing -------------------------------------------------------------------------------------


def base36(n):
    digits = ""
    while n or not digits:
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[n % 36] + digits
        n //= 36
    return digits


def spell(ids):
    return ",".join(map(base36, ids))


def write(name, content):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        f.write(content)


def golden(document_, all_texts):
    t = Tokenizer.from_str(json.dumps(document_))
    lines = []
    for raw in all_texts:
        text = raw.decode("utf-8", errors="replace")
        t.encode_special_tokens = False
        ids = t.encode(text).ids
        t.encode_special_tokens = True
        plain = t.encode(text).ids
        decoded = t.decode(ids, skip_special_tokens=True)
        lines.append("%s|%s|%s" % (spell(ids), "=" if plain == ids else spell(plain),
                                   "=" if decoded == text else decoded.encode().hex()))
    # Any tokens in a row, as a model with nothing to say would make them. Bytes that form no character
    # are replaced one for one by ByteFallback, one for each part of a character by us: left out.
    pool = [i for text, i in t.get_vocab().items()
            if document_["decoder"]["type"] != "Sequence" or not text.startswith("<0x")]
    for _ in range(60):
        ids = [R.choice(pool) for _ in range(R.randint(1, 12))]
        lines.append("decode %s|%s" % (spell(ids), t.decode(ids, skip_special_tokens=True).encode().hex()))
    return "\n".join(lines) + "\n"


def seed(target, name, content):
    folder = os.path.join("tests/fuzz/corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "seed-" + name), "wb") as f:
        f.write(content)


def small(document_):
    """The same pipeline with a vocabulary that mutation can get at."""
    model = document_["model"]
    if model["type"] == "BPE":
        vocab = ["<unk>", "a", "b", "ab", "aba", "l", "ll", "▁", "▁x"]
        if model["byte_fallback"]:
            vocab += ["<0x%02X>" % b for b in range(256)]
        model.update(vocab={t: i for i, t in enumerate(vocab)}, merges=["a b", "ab a", "l l", "▁ x"][:3])
        model["unk_token"] = model["unk_token"] and "<unk>"
        if "▁x" in model["vocab"]:
            del model["vocab"]["▁x"]
    else:
        model["vocab"] = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4, "hello": 5}
    names = {"BPE": ["<a>", "<b>"], "WordPiece": ["[UNK]", "[CLS]", "[SEP]"]}[model["type"]]
    first = 0 if model["type"] == "WordPiece" else 300
    document_["added_tokens"] = [added(first + i, t, i != 1) for i, t in enumerate(names)]
    if document_["post_processor"]:
        document_["post_processor"] = template([(names[0], first)])
    return json.dumps(document_, ensure_ascii=False, separators=(",", ":")).encode()


def seeds(all_texts):
    for maker in MAKERS:
        content = small(maker())
        Tokenizer.from_str(content.decode())
        seed("tokenizer", maker.__name__.removeprefix("make_"), content)
    for i in range(len(MAKERS)):
        text = b"".join(R.sample(all_texts, 6))[:300]
        seed("tokenize", str(i), bytes([i, R.randrange(60), R.randrange(60)]) + text)


def chat_alone():
    """With the tokenizers that are there, which another version of the package would train otherwise."""
    documents = {}
    for name in {name for _, _, _, name, _ in CHATS} - {"-"}:
        with open(os.path.join(OUT, name + ".json"), encoding="utf-8") as f:
            documents[name] = json.load(f)
    write("chat", chat_golden(documents))


def main():
    if sys.argv[1:] == ["chat"]:
        return chat_alone()
    os.makedirs(OUT, exist_ok=True)
    all_texts = texts()
    write("texts", "".join(t.hex() + "\n" for t in all_texts))
    documents = {}
    for maker in MAKERS:
        name = maker.__name__.removeprefix("make_")
        documents[name] = document_ = maker()
        write(name + ".json", json.dumps(document_, ensure_ascii=False, separators=(",", ":")) + "\n")
        write(name + ".ids", golden(document_, all_texts))
    seeds(all_texts)
    write("chat", chat_golden(documents))
    print(len(all_texts), "texts")


if __name__ == "__main__":
    main()
