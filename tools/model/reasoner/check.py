"""Checks what the card says of the training stream: no problem of the sets is in it, its solutions are right, and its
chains change their answers as often as they should. Needs Python alone.

    python3 check.py     prints what it counted; status 1 when something is not so
"""

import os
import random
import sys
import tempfile

import game24
import long
import sets
import words

STREAM, CHAINS, FRESH = 4000, 3000, 100
failed = []


def check(name, ok, told):
    print(f"{'ok' if ok else 'WRONG'}: {name}: {told}")
    if not ok:
        failed.append(name)


def numbers_of(prompt):
    """(numbers, target) of a prompt of game24."""
    found = [int(n) for n in prompt.replace(",", "").replace(".", "").split() if n.isdigit()]
    return tuple(sorted(found[:-1])), found[-1]


def check_held(stream):
    """Problems of the sets are offered to the stream, which must not take them; of games it draws them itself."""
    real, offered = words.problem, iter([True] * 50 + [False])
    held = words.problem(random.Random(7), 3)
    stream.words_held.add(held.text)
    words.problem = lambda rng, level: held if next(offered, False) else real(rng, level)
    taken = stream.words_problem()
    words.problem = real
    check("words that a set holds", taken.text != held.text, "left out")
    texts = {long.ASK + text for text in stream.words_held} | stream.words_held
    games, both = 0, 0
    for _ in range(STREAM):
        prompt, _ = stream.sample()
        both += prompt in texts
        if prompt.startswith("Use "):
            numbers, target = numbers_of(prompt)
            games += target == game24.TARGET
            both += target == game24.TARGET and numbers in stream.game_held
    check("problems of sets in the stream", both == 0 and games > 30, f"{both} of {STREAM} texts, of which {games} make 24")
    with tempfile.TemporaryDirectory() as folder:
        sets.fresh(folder, "reward", FRESH)
        rows = {task: [line.rstrip("\n").split("\t") for line in open(os.path.join(folder, f"fresh.{task}.tsv"))] for task in ("words", "game24")}
    both = sum(text in stream.words_held for _, _, text in rows["words"]) + sum(tuple(map(int, n.split())) in stream.game_held for _, n, _ in rows["game24"])
    check("problems of sets to sample from", both == 0 and len(rows["words"]) == FRESH, f"{both} of {3 * FRESH}")


def check_solutions(stream):
    wrong = 0
    for _ in range(300):
        numbers, target, way = stream.game()
        wrong += not game24.right(game24.solution(way).split("{")[1].rstrip("}"), numbers, target)
        p = stream.words_problem()
        for a, sign, b, y in p.steps:
            wrong += y != {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "% of ": lambda: a * b / 100}[sign]()
        wrong += p.steps[-1][3] != p.answer or words.parse(p.write(p.answer)) != p.answer
    check("solutions and sums that are wrong", wrong == 0, f"{wrong}")


def check_chains(stream):
    changed = mended = 0
    for _ in range(CHAINS):
        p = stream.words_problem()
        stated = long.chain(p, stream.rng)[0].stated
        changed += any(value != stated[0] for value in stated)
        mended += stated[0] != p.answer and stated[-1] == p.answer
    check("chains that change their answer", changed >= 0.1 * CHAINS, f"{100 * changed / CHAINS:.1f} %")
    check("of those from wrong to right", 0.4 <= mended / max(changed, 1) <= 0.6, f"{100 * mended / max(changed, 1):.1f} %")


def main():
    stream = sets.Stream("check")
    for part in (check_held, check_solutions, check_chains):
        part(stream)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
