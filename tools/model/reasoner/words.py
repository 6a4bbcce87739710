"""Multi-step arithmetic word problems: text, solution steps and exact answer, from a random stream.

A problem is a chain of sentences about one quantity; each sentence stands for one or two steps. The
level is the number of steps, 2 to 8. Numbers are whole, decimal or simple fractions, by the kind of
thing that is counted. Rare wordings, distracting quantities and actions that did not happen make
problems hard for reasons other than their length.
"""

from fractions import Fraction as F

LEVELS = range(2, 9)

NAMES = [(n, "She", "her") for n in "Mia Ann Zoe Lena Ruth Ines Olga Nora Fay Uma Ivy Tara Gwen Dina Rosa Elsa Kira Lucy Hana Yara".split()] + [
    (n, "He", "his") for n in "Tom Max Ben Leo Raj Omar Finn Hugo Ivan Juan Karl Liam Noah Paul Amir Seth Theo Vito Will Zack".split()]

# Things by the numbers they take: plural, container plural, unit verb of getting, of losing.
WHOLE = [(i, c) for c, items in {
    "bags": "shells marbles beans sweets coins nuts pebbles buttons acorns beads",
    "boxes": "pencils crayons cookies eggs candles tiles screws toys bulbs bricks",
    "packs": "stickers cards stamps balloons batteries seeds pens napkins",
    "baskets": "apples pears plums lemons oranges peaches figs mushrooms",
    "shelves": "books jars cups plates bowls maps magazines",
    "crates": "bottles melons carrots onions potatoes cans"}.items() for i in items.split()]
DECIMAL = [("liters of paint", "cans"), ("liters of milk", "jugs"), ("kilograms of flour", "sacks"), ("meters of rope", "rolls"), ("kilograms of rice", "bags"),
           ("meters of cloth", "pieces"), ("liters of juice", "bottles"), ("kilograms of clay", "blocks"), ("dollars", "envelopes"), ("hours of music", "tapes")]
FRACTION = [("pizzas", "plates"), ("cups of sugar", "bowls"), ("pies", "trays"), ("pounds of butter", "packs"), ("cakes", "tins"), ("acres of land", "plots"), ("miles of road", "parts")]

# Wordings, common ones first: the k-th has weight 1 / (1 + k).
START = ["{n} has {v} {i}.", "{n} starts with {v} {i}.", "At first {n} has {v} {i}.", "There are {v} {i} in the house of {n}.",
         "{n} owns {v} {i}.", "In the morning {n} counts {v} {i}.", "{n} keeps {v} {i} in the cellar."]
ADD = ["{p} buys {v} more {i}.", "{p} gets {v} more {i}.", "{p} finds another {v} {i}.", "{f} gives {o} {v} {i}.", "Then {v} {i} are added.",
       "{p} receives {v} {i} as a gift.", "{p} borrows {v} {i} from {f}.", "{v} extra {i} arrive by mail.", "{f} drops off {v} {i}."]
SUB = ["{p} gives {v} {i} to {f}.", "{p} loses {v} {i}.", "{p} sells {v} {i}.", "{p} uses {v} {i}.", "{f} takes {v} {i} away.",
       "{p} throws away {v} {i}.", "{p} lends {v} {i} to {f}.", "{v} {i} are spoiled.", "{p} parts with {v} {i}."]
TIMES = {2: ["Then the amount doubles.", "{p} doubles what {p0} has.", "A week later {p0} has twice as many.", "The stock grows to two times its size."],
         3: ["Then the amount triples.", "{p} triples what {p0} has.", "A week later {p0} has three times as many.", "The stock grows threefold."],
         0: ["A week later {p0} has {k} times as many.", "The amount grows to {k} times its size.", "{p} multiplies what {p0} has by {k}.", "The stock grows by a factor of {k}."]}
DIVIDE = {2: ["{p} keeps half of it.", "{p} gives away half of what {p0} has.", "Half of it gets lost.", "{p} splits everything evenly with {f} and keeps one part."],
          0: ["{p} puts everything into {k} equal {c} and keeps one of them.", "{p} shares everything equally among {k} people, {h} own part counted.", "{p} keeps one part out of {k} equal parts.",
              "Only one in {k} is left.", "{p} splits everything with {k1} friends and keeps {h} part."]}
BAGS = ["{p} buys {k} {c} with {v} {i} in each.", "{p} gets {k} {c} of {v} {i} each.", "{f} brings {k} {c}, each with {v} {i}.", "{k} {c} arrive, and every one holds {v} {i}."]
EACH = ["{p} gives {v} {i} to each of {k} friends.", "{k} children take {v} {i} each.", "{p} sells {k} {c} with {v} {i} in each.", "{p} hands out {v} {i} apiece to {k} people."]
SPREAD = ["{f} has {v} {i} and {s} shares them equally among {k} people; {n} is one of them.", "{n} gets one of {k} equal parts of {v} {i}."]
COMPARE = ["{f} has {v} more {i} than {n}, and they put all together.", "{f} has {v} {i} more than {n} has now. They combine what they have."]
COMPARE_TIMES = ["{f} has {k} times as many {i} as {n}, and they put all together.", "{f} owns {k} times what {n} has now. They combine what they have."]
PERCENT = ["{p} gives away {q} percent of it.", "{p} uses up {q} percent of it.", "{q} percent of it gets lost."]
AGAIN = ["Then {p0} gets as many as {p0} had at the start.", "{f} adds as many as {n} had at first.", "{p} buys the same amount that {p0} started with."]
DISTRACT = ["{h0} sister has {v} {j}.", "{f} has {v} {i} too.", "{n} is {v} years old.", "{p} wanted to buy {v} more {i}, but did not.", "It takes {v} minutes to get there.",
            "{p} also has {v} {j}.", "{f} asks for {v} {i}, but {n} says no.", "{p} almost loses {v} {i}.", "There are {v} houses on the street.", "Yesterday {f} sold {v} {i}."]
# Some read it as if it had happened.
MISREAD = "{p} wanted to buy {v} more {i}, but did not."
assert MISREAD in DISTRACT
QUESTION = ["How many {i} does {n} have now?", "How many {i} are there in the end?", "How many {i} are left?", "What number of {i} is it now?", "Find the final number of {i}."]
QUESTION_PART = ["How much is it now, in {i}?", "How many {i} are there in the end?", "How many {i} are left?", "Find the final amount in {i}."]


def show(x):
    """A number as problems and solutions write it: 12, 2.5 or 7/4."""
    x = F(x)
    if x.denominator == 1:
        return str(x.numerator)
    d = x.denominator
    while d % 2 == 0:
        d //= 2
    while d % 5 == 0:
        d //= 5
    return f"{x.numerator}/{x.denominator}"


def show_decimal(x):
    x = F(x)
    if x.denominator == 1:
        return str(x.numerator)
    text = f"{float(x):.4f}".rstrip("0")
    assert F(text) == x, x
    return text


class Kind:
    """The numbers of one kind of thing: how they are drawn, which results are allowed, how they look."""

    def __init__(self, name, things, draw, fits, write):
        self.name, self.things, self.draw, self.fits, self.write = name, things, draw, fits, write


def draw_fraction(rng, small):
    d = rng.choice([2, 2, 3, 4, 4, 5, 6, 8])
    return F(rng.randint(1, (2 if small else 4) * d), d)


KINDS = [
    Kind("whole", WHOLE, lambda r, small: F(r.randint(2, 12) if small else r.randint(2, 60)), lambda x: x.denominator == 1 and 1 <= x <= 999, show),
    Kind("decimal", DECIMAL, lambda r, small: F(r.randint(3, 60 if small else 300), r.choice([2, 2, 10, 10, 4])), lambda x: 400 % x.denominator == 0 and 100 % x.denominator == 0 and 0 < x < 300, show_decimal),
    Kind("fraction", FRACTION, draw_fraction, lambda x: x.denominator <= 24 and 0 < x < 60, show),
]
KIND_WEIGHTS = [68, 18, 14]


def pick(rng, wordings):
    return rng.choices(wordings, [1 / (1 + k) for k in range(len(wordings))])[0]


def operations(rng, kind, x, start, left):
    """One sentence's worth: (wordings, fields, steps, value after) or None when it does not fit."""
    whole = kind.name == "whole"
    what = rng.choices(["add", "sub", "times", "divide", "bags", "each", "percent", "compare", "compare_times", "again", "spread"],
                       [24, 24, 8, 8, 12, 10, 6, 4, 4, 3, 4])[0]
    w = kind.write
    if what in ("add", "sub"):
        v = kind.draw(rng, False)
        y = x + v if what == "add" else x - v
        sign = "+" if what == "add" else "-"
        return (ADD if what == "add" else SUB), {"v": w(v)}, [(x, sign, v, y)], y
    if what == "times":
        k = rng.choice([2, 2, 3, 3, 4, 5, 6, 7, 8, 9])
        return TIMES[k if k in TIMES and rng.random() < 0.7 else 0], {"k": k}, [(x, "*", F(k), x * k)], x * k
    if what == "divide":
        k = rng.choice([2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9])
        return DIVIDE[2 if k == 2 else 0], {"k": k, "k1": k - 1}, [(x, "/", F(k), x / k)], x / k
    if what == "spread" and left >= 2:
        k = rng.randint(2, 9)
        part = kind.draw(rng, True)
        return SPREAD, {"k": k, "v": w(part * k)}, [(part * k, "/", F(k), part), (x, "+", part, x + part)], x + part
    if what in ("bags", "each") and left >= 2:
        k = rng.randint(2, 9)
        v = kind.draw(rng, True)
        y = x + k * v if what == "bags" else x - k * v
        return (BAGS if what == "bags" else EACH), {"k": k, "v": w(v)}, [(F(k), "*", v, k * v), (x, "+" if what == "bags" else "-", k * v, y)], y
    if what == "percent" and left >= 2 and kind.name != "fraction":
        q = rng.choice([10, 20, 25, 50, 75, 5, 40])
        part = x * q / 100
        return PERCENT, {"q": q}, [(F(q), "% of ", x, part), (x, "-", part, x - part)], x - part
    if what == "compare" and left >= 2:
        v = kind.draw(rng, False)
        return COMPARE, {"v": w(v)}, [(x, "+", v, x + v), (x, "+", x + v, 2 * x + v)], 2 * x + v
    if what == "compare_times" and left >= 2:
        k = rng.choice([2, 2, 3, 4, 5])
        return COMPARE_TIMES, {"k": k}, [(x, "*", F(k), x * k), (x, "+", x * k, x * (k + 1))], x * (k + 1)
    if what == "again":
        return AGAIN, {}, [(x, "+", start, x + start)], x + start
    return None


class Problem:
    """text, level, kind, steps [(a, sign, b, result)], answer; write() makes a number readable. misread has
    (steps before it, amount then, amount not bought) for each sentence MISREAD."""

    def __init__(self, text, level, kind, steps, answer, spoilers, misread):
        self.text, self.level, self.kind, self.steps, self.answer, self.spoilers = text, level, kind, steps, answer, spoilers
        self.misread = misread
        self.write = kind.write

    def line(self, step, result=None):
        a, sign, b, y = step
        w = self.write
        return f"{w(a)}{sign}{w(b)}={w(y if result is None else result)}"


def problem(rng, level):
    while True:
        kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
        item, container = rng.choice(kind.things)
        other = rng.choice(WHOLE)[0]
        name, pronoun, poss = rng.choice(NAMES)
        friend = rng.choice([n for n in NAMES if n[0] != name])
        base = {"n": name, "i": item, "c": container, "j": other, "h": poss, "h0": poss.capitalize(), "f": friend[0], "s": friend[1].lower(), "p0": pronoun.lower(), "o": "her" if pronoun == "She" else "him"}
        start = kind.draw(rng, False)
        x, steps, spoilers, misread = start, [], [], []
        sentences = [pick(rng, START).format(**base, v=kind.write(start))]
        behind = [(0, start)]  # each sentence: steps so far, amount
        tries = 0
        while len(steps) < level and tries < 60:
            tries += 1
            op = operations(rng, kind, x, start, level - len(steps))
            if op is None or not all(kind.fits(s[3]) for s in op[2]):
                continue
            wordings, fields, new, x = op
            subject = name if rng.random() < 0.3 else pronoun
            text = pick(rng, wordings).format(**{**base, "p": subject, **fields})
            sentences.append(text[0].upper() + text[1:])
            steps += new
            behind.append((len(steps), x))
        if len(steps) != level:
            continue
        for _ in range(rng.choices([0, 1, 2], [60, 30, 10])[0]):
            v = kind.draw(rng, rng.random() < 0.5)
            if v > 1:
                wording = pick(rng, DISTRACT)
                text = wording.format(**{**base, "p": pronoun, "v": kind.write(v)})
                at = rng.randint(1, len(sentences))
                sentences.insert(at, text)
                behind.insert(at, behind[at - 1])
                if wording == MISREAD:
                    misread.append((*behind[at], v))
                spoilers.append(v)
        question = pick(rng, QUESTION if kind.name == "whole" else QUESTION_PART).format(**base)
        return Problem(" ".join(sentences + [question]), level, kind, steps, x, spoilers, misread)


def solution(p, steps):
    lines = [f"Step {k}: {p.line(s)}" for k, s in enumerate(steps, 1)]
    return "\n".join(lines) + f"\n\\boxed{{{p.write(steps[-1][3])}}}"


def parse(text):
    """The exact value of an answer, or None."""
    try:
        return F(text.strip().replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return None
