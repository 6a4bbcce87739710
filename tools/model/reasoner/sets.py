"""Training stream, calibration and test sets of the tasks. Sets come from fixed seeds and share no problem
with each other nor with the training stream, which leaves out whatever they hold.

    python3 sets.py DIR                     writes DIR/{words,game24}.{calibration,test}.tsv
    python3 sets.py DIR --fresh NAME COUNT  writes DIR/fresh.{words,game24}.tsv, of no set: to sample from

A line: level, answer (words) or numbers (game24), problem as the prompt has it. Task `long` has the
problems of `words` with long.ASK before them.
"""

import argparse
import os
import random

import game24
import long
import words

CALIBRATION, TEST = 5000, 2000
TASKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tasks")


def even(count, levels):
    """count levels, each equally often as far as it divides."""
    return [list(levels)[i % len(levels)] for i in range(count)]


def words_sets():
    rng, seen, out = random.Random("words"), set(), {}
    for name, count in (("test", TEST), ("calibration", CALIBRATION)):
        rows = []
        for level in even(count, words.LEVELS):
            p = words.problem(rng, level)
            while p.text in seen:
                p = words.problem(rng, level)
            seen.add(p.text)
            rows.append((level, p.write(p.answer), p.text))
        out[name] = rows
    return out, seen


def game24_sets():
    rng, out = random.Random("game24"), {}
    by_level = {}
    for numbers in game24.all_problems():
        by_level.setdefault(game24.level(numbers), []).append(numbers)
    for problems in by_level.values():
        rng.shuffle(problems)
    seen = set()
    for name, count in (("test", TEST), ("calibration", CALIBRATION)):
        rows = []
        for level in even(count, game24.LEVELS):
            numbers = by_level[level].pop()
            seen.add(numbers)
            rows.append((level, " ".join(map(game24.show, numbers)), game24.prompt(rng, numbers)))
        out[name] = rows
    return out, seen


def held():
    """What the sets hold, (texts of words, numbers of game24): from their files, or made once more, which takes long."""
    paths = {task: [os.path.join(TASKS, f"{task}.{name}.tsv") for name in ("test", "calibration")] for task in ("words", "game24")}
    if not all(os.path.exists(path) for of_task in paths.values() for path in of_task):
        return words_sets()[1], game24_sets()[1]
    rows = {task: [line.rstrip("\n").split("\t") for path in of_task for line in open(path)] for task, of_task in paths.items()}
    return {text for _, _, text in rows["words"]}, {tuple(map(int, numbers.split())) for _, numbers, _ in rows["game24"]}


class Stream:
    """Samples for training, without end: (prompt, completion)."""

    MIX = [("words", 25), ("long", 17), ("probe", 12), ("game24", 28), ("sums", 18)]
    MISREAD = 0.1  # so many problems more have a wording that is misread: 1 of 28 has it by chance

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.words_held, self.game_held = held()
        self.others = set(range(10, 61)) - {game24.TARGET}

    def words_problem(self):
        while True:
            p = words.problem(self.rng, self.rng.choice(words.LEVELS))
            if p.text not in self.words_held:
                return p

    def read_problem(self):
        """One as the policy is to read it."""
        often = self.rng.random() < self.MISREAD
        while True:
            p = self.words_problem()
            misread = long.misread(p)
            if not often or misread is not p:
                return misread

    def game(self):
        """(numbers, target, way): one in three with the target 24, of numbers that no set holds."""
        rng = self.rng
        while True:
            top = 20 if rng.random() < 0.7 else 30
            numbers = tuple(sorted(rng.randint(1, top) for _ in range(4)))
            own = rng.random() < 0.33
            if own and numbers in self.game_held:
                continue
            way = game24.path(rng, numbers, (game24.TARGET,) if own else self.others, 300 if own else 30)
            if way:
                return numbers, way[-1][3], way

    def sample(self):
        rng = self.rng
        task = rng.choices([t for t, _ in self.MIX], [w for _, w in self.MIX])[0]
        if task == "game24":
            numbers, target, way = self.game()
            return game24.prompt(rng, numbers, target), game24.solution(way)
        p = self.read_problem()
        if task == "sums":  # the same steps without a story: reading is learned long before reckoning
            q = words.problem(rng, 8)
            lines = [p.line(s) for s in p.steps] + [q.line(s) for s in q.steps]
            rng.shuffle(lines)
            lines = lines[:8]
            return "Work out " + "; ".join(line.split("=")[0] for line in lines) + ".", "\n".join(f"Step {k}: {line}" for k, line in enumerate(lines, 1))
        if task == "words":
            return p.text, words.solution(p, long.careless(p, rng))
        chain, text = long.chain(p, rng)
        if task == "long":
            return long.ASK + p.text, text
        begin, answer = long.probe(chain, rng)
        return long.ASK + p.text, (begin, answer)


def fresh(folder, seed, count):
    stream = Stream(seed)
    with open(os.path.join(folder, "fresh.words.tsv"), "w") as f:
        for _ in range(count):
            p = stream.words_problem()
            f.write(f"{p.level}\t{p.write(p.answer)}\t{p.text}\n")
    with open(os.path.join(folder, "fresh.game24.tsv"), "w") as f:
        for _ in range(2 * count):
            numbers = None
            while numbers is None or numbers in stream.game_held:
                top = 20 if stream.rng.random() < 0.4 else 30
                numbers = tuple(sorted(stream.rng.randint(1, top) for _ in range(4)))
            f.write(f"1\t{' '.join(map(str, numbers))}\t{game24.prompt(stream.rng, numbers)}\n")


def main():
    parser = argparse.ArgumentParser(description="Writes the calibration and test sets.")
    parser.add_argument("out")
    parser.add_argument("--fresh", nargs=2, metavar=("SEED", "COUNT"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if args.fresh:
        fresh(args.out, args.fresh[0], int(args.fresh[1]))
        return
    for task, (sets, _) in (("words", words_sets()), ("game24", game24_sets())):
        for name, rows in sets.items():
            path = os.path.join(args.out, f"{task}.{name}.tsv")
            with open(path + ".new", "w") as f:
                f.writelines("\t".join(map(str, row)) + "\n" for row in rows)
            os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
