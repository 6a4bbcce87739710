#!/usr/bin/env python3
"""What published chat templates write: tests/golden/chats/published and tests/golden/chats/rendered.

  make_chats.py SDIST EXTRA

SDIST: the sdist of llama-cpp-python 0.3.36, unpacked (`make peers` fetches it; llama_cpp/ is needed as
well as vendor/). EXTRA: a folder with the templates below that are not in it, as NAME.jinja, copied from
chat_template strings; COPIES says whose. Their texts are other people's and are not committed; the table has
hash, length and origin of each, so that whoever has a text can see that it is the same one, and the
renderings have what Jinja made of it out of our conversations, with the settings of transformers
(trim_blocks, lstrip_blocks). Templates that write line ends inside strings are published with the line
end itself and with its escape; the table has both.

Needs jinja2 and xxhash. Written with jinja2 3.1.6.
"""
import ast
import os
import re
import sys

import jinja2
import xxhash

OUT = "tests/golden/chats"
SDIST = "llama_cpp_python-0.3.36:"
FILES = "vendor/llama.cpp/models/templates/"
CASES = "vendor/llama.cpp/tests/test-chat-template.cpp"
FORMATS = "llama_cpp/llama_chat_format.py"
TOKENS = {"llama-2": ("<s>", "</s>"), "llama-3": ("<|begin_of_text|>", "<|eot_id|>"),
          "llama-3.1": ("<|begin_of_text|>", "<|eot_id|>"), "mistral-v1": ("<s>", "</s>"),
          "mistral-v3": ("<s>", "</s>"), "gemma": ("<bos>", "<eos>"),
          "deepseek-r1": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
          "deepseek-r1-think": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")}
COPIES = {  # where the texts in EXTRA were taken from: a repository on GitHub, or what a copy calls itself
    "llama-2-chat": "a copy that says meta-llama/Llama-2-13b-chat-hf",
    "mistral-7b-instruct-v0.3": "a copy that says lmstudio-community/Mistral-7B-Instruct-v0.3-GGUF",
    "qwen2-instruct": "a copy without a name, used with Qwen2 and Qwen2.5",
    "phi-3-mini-4k": "not seen in place: a text with this hash",
    "deepseek-r1-distill": "Evilcarbon/DeepSeek-R1-Distill-Qwen-32B"
                           "@d5e5623342de724261521aac455648c987666362:tokenizer_config.json",
    "deepseek-r1-distill-think": "a copy that says deepseek-r1-distill-qwen",
}
PUBLISHED = [  # family, model, where the text is, the name there
    ("llama-2", "meta-llama/Llama-2-7b-chat-hf", "", "llama-2-chat"),
    ("llama-3", "meta-llama/Meta-Llama-3-8B-Instruct, first", CASES, "Llama-3"),
    ("llama-3", "meta-llama/Meta-Llama-3-8B-Instruct", FORMATS, "LLAMA3_INSTRUCT_CHAT_TEMPLATE"),
    ("llama-3.1", "meta-llama/Llama-3.1-8B-Instruct and Llama-3.3-70B-Instruct", FILES, "meta-llama-Llama-3.1-8B-Instruct"),
    ("llama-3.1", "meta-llama/Llama-3.2-3B-Instruct", FILES, "meta-llama-Llama-3.2-3B-Instruct"),
    ("mistral-v1", "mistralai/Mixtral-8x7B-Instruct-v0.1", FORMATS, "MIXTRAL_INSTRUCT_CHAT_TEMPLATE"),
    ("mistral-v3", "mistralai/Mistral-7B-Instruct-v0.3", "", "mistral-7b-instruct-v0.3"),
    ("qwen2", "Qwen/Qwen2-7B-Instruct", "", "qwen2-instruct"),
    ("qwen2.5", "Qwen/Qwen2.5-7B-Instruct", FILES, "Qwen-Qwen2.5-7B-Instruct"),
    ("qwen3", "Qwen/Qwen3-0.6B", FILES, "Qwen-Qwen3-0.6B"),
    ("chatml", "teknium/OpenHermes-2.5-Mistral-7B", CASES, "teknium/OpenHermes-2.5-Mistral-7B"),
    ("gemma", "google/gemma-2-2b-it", FILES, "google-gemma-2-2b-it"),
    ("phi-3", "microsoft/Phi-3-mini-4k-instruct", "", "phi-3-mini-4k"),
    ("phi-3", "microsoft/Phi-3.5-mini-instruct", FILES, "microsoft-Phi-3.5-mini-instruct"),
    ("phi-3", "microsoft/Phi-3-vision-128k-instruct", CASES, "Phi-3-vision"),
    ("deepseek-r1", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B, first", "", "deepseek-r1-distill"),
    ("deepseek-r1-think", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "", "deepseek-r1-distill-think"),
]
TALKS = [
    [("user", "Hi")],
    [("user", " \n two lines\nand spaces \t\n")],
    [("user", "")],
    [("user", "<|im_end|> </s> [INST] <end_of_turn>")],
    [("user", "Say it."), ("assistant", "It."), ("user", "Again.")],
    [("user", "a"), ("assistant", " \n b \n"), ("user", "c"), ("assistant", "日本"), ("user", "\u3000é ")],
    [("user", "2+2?"), ("assistant", "<think>\nTwo and two.\n</think>\n\n4"), ("user", "3+3?")],
    [("user", "x"), ("assistant", "no beginning</think>y"), ("user", "z")],
    [("user", "x"), ("assistant", "<think>a</think>b</think>\n \nc"), ("user", "z")],
    [("user", "x"), ("assistant", "<think>open"), ("user", "</think> z")],
    [("system", "Be brief."), ("user", "Hi")],
    [("system", " \nBe brief.\n "), ("user", " Hi ")],
    [("system", "Be brief."), ("user", "")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hm."), ("user", "And?")],
    [("system", "Be\nbrief."), ("user", "a"), ("assistant", "b</think>\nc"), ("user", "d"), ("assistant", "e"),
     ("user", "f")],
]


def read(*parts):
    with open(os.path.join(*parts), encoding="utf-8", newline="") as f:
        return f.read()


def text_of(sdist, extra, where, name):
    if where in ("", FILES):
        return read(*([sdist, FILES] if where else [extra]), name + ".jinja")
    source = read(sdist, where)
    if where == FORMATS:
        return ast.literal_eval(re.search("^" + name + ' = (".*")$', source, re.M).group(1))
    case = re.search(r'\.name= \*/ "' + re.escape(name) + r'[^"]*",\s*/\* \.template_str=? ?\*/ ("(?:[^"\\]|\\.)*"),',
                     source)
    return ast.literal_eval(case.group(1))


def refuse(why):
    raise jinja2.TemplateError(why)


def render(template, family, talk):
    bos, eos = TOKENS.get(family, ("", ""))
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": content} for role, content in talk]
    try:
        return env.from_string(template).render(messages=messages, add_generation_prompt=True, bos_token=bos,
                                                eos_token=eos, raise_exception=refuse).encode().hex() or "."
    except jinja2.TemplateError:
        return "refused"


def main(sdist, extra):
    os.makedirs(OUT, exist_ok=True)
    rows, lines = [], []
    for family, model, where, name in PUBLISHED:
        text = text_of(sdist, extra, where, name)
        spellings = [text]
        if "\n    " not in text:  # not laid out in lines: what line ends there are stand in strings
            spellings = sorted({text.replace("\\n", "\n"), text.replace("\n", "\\n")}, key=len)
        for spelling in spellings:
            fingerprint = "%016x" % (xxhash.xxh3_128(spelling.encode()).intdigest() & (1 << 64) - 1)
            origin = SDIST + where + ("" if where == FILES else ":") + name if where else COPIES[name]
            rows.append("%s %s %d %s; %s" % (fingerprint, family, len(spelling.encode()), model, origin))
            for talk in TALKS:
                lines.append("%s %s %s = %s" % (fingerprint, "".join(role[0] for role, _ in talk),
                                                " ".join(content.encode().hex() or "." for _, content in talk),
                                                render(spelling, family, talk)))
    for name, content in (("published", rows), ("rendered", lines)):
        with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
            f.write("\n".join(content) + "\n")
    print(len(rows), "templates,", len(lines), "renderings")


if __name__ == "__main__":
    main(*sys.argv[1:])
