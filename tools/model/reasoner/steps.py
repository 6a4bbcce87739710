"""Solutions with an exact mark at each token: is the text right so far, is this sum right, what should come next.

A line of a solution is (written, truth, reckoned): what it says, what it should say after the lines before
it (None: they are wrong already), and what it says when its sum is right (None: not known).
"""

import re
from fractions import Fraction as F
from functools import lru_cache

import game24
import long
import vocabulary
import words

TEXT, TOKEN, NEXT = range(3)  # the kinds of marks: the text so far is right; this token is; the right next token
END_WEIGHT, INNER_WEIGHT = 3.0, 0.5  # of TEXT at the ends of steps and inside
WRONG_WEIGHT = 4.0  # of TOKEN where it is wrong, which is seldom
WHOLE_SUM = re.compile(r"(Step \d+: )([\d.]+)(\+|-|\*|/|% of )([\d.]+)=(.*)\n")
GAME = re.compile(r"(Step \d+: (\d+)([-+*/])(\d+)=)(\d+), left ([\d,]+)\n")


class Marker:
    """Makes rows (tokens, [marks] * 3, [weights] * 3)."""

    def __init__(self, tokenizer):
        self.ids = lru_cache(1 << 17)(lambda t: tokenizer.encode(t, add_special_tokens=False).ids)
        self.line_end = self.ids("\n")[0]

    def row(self, prompt, lines, right, asked=True, settled=True):
        """lines: of the whole text. right: its outcome, or None when the lines tell it. asked: its operands
        follow from the prompt. settled: a text is right or wrong from its operands on, not from its results."""
        tokens = list(self.ids(vocabulary.prompt(prompt))) if prompt else []
        first = len(tokens)
        y, w = [[0.0] * first for _ in range(3)], [[0.0] * first for _ in range(3)]
        alive = True
        for k, (written, truth, reckoned) in enumerate(lines):
            tail = [vocabulary.END] if k + 1 == len(lines) else []
            if written is None:  # what follows is not understood
                body = self.ids(truth) + tail
                tokens += body
                for i in range(3):
                    y[i] += [0.0] * len(body)
                    w[i] += [0.0] * len(body)
                continue
            body = self.ids(written) + tail
            result = len(self.ids(written[:written.find("=") + 1])) if "=" in written else 0
            differs = 0
            if alive and truth is not None:
                differs = first_difference(body, self.ids(truth) + tail)
            wrong_sum = None if reckoned is None else first_difference(body, self.ids(reckoned) + tail)
            for i, token in enumerate(body):
                good = alive and truth is not None and i < differs
                edge = token in (self.line_end, vocabulary.END)
                y[TEXT].append(float(good))
                w[TEXT].append(END_WEIGHT if edge else INNER_WEIGHT if settled or i >= result > 0 else 0.0)
                should = []
                if alive and truth and i <= differs and asked:
                    should = self.ids(truth) + tail
                elif wrong_sum is not None and result <= i <= wrong_sum:
                    should = self.ids(reckoned) + tail
                target = should[i] if i < len(should) else None
                y[NEXT].append(float(target or 0))
                w[NEXT].append(float(target is not None))
                y[TOKEN].append(float(token == target))
                w[TOKEN].append(0.0 if target is None else 1.0 if token == target else WRONG_WEIGHT)
            tokens += body
            alive = alive and truth is not None and differs == len(body)
        if right is not None:
            for i in range(first, len(tokens)):
                if right and not y[TEXT][i]:
                    w[TEXT][i] = 0.0
            y[TEXT][-1], w[TEXT][-1] = float(right), END_WEIGHT
        y[NEXT], w[NEXT] = y[NEXT][1:] + [0.0], w[NEXT][1:] + [0.0]
        return tokens, y, w


def first_difference(a, b):
    for i, (s, t) in enumerate(zip(a, b)):
        if s != t:
            return i
    return min(len(a), len(b))


def reckon(a, sign, b):
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b if b else F(-1), "% of ": lambda: a * b / 100}[sign]()


def sampled_words(p, text):
    """Lines of a solution that the policy wrote."""
    out, values, alive = [], {}, True
    for k, line in enumerate(text.splitlines(keepends=True), 1):
        if line.startswith("\\boxed{"):
            truth = f"\\boxed{{{p.write(p.answer)}}}" if k == len(p.steps) + 1 else ""
            out.append((line, truth if alive else None, None))
            continue
        if not line.startswith(f"Step {k}: ") or "=" not in line or not line.endswith("\n"):
            out.append((None, line, None))
            continue
        truth, reckoned = "", None
        head, result = line[:-1].split("=", 1)
        value = words.parse(result)
        if k <= len(p.steps):
            a, sign, b, y = p.steps[k - 1]
            truth = f"Step {k}: {p.line(p.steps[k - 1])}\n"
            try:
                step = (values.get(a, a), sign, values.get(b, b))
                expected = f"Step {k}: {p.line(step + (reckon(*step),))}\n"
                if expected.split("=")[0] == head:
                    reckoned = expected
            except AssertionError:
                pass
            if value is not None and value != y:
                values[y] = value
            else:
                values.pop(y, None)
        found = WHOLE_SUM.fullmatch(line)
        if reckoned is None and found and p.kind.name != "fraction":
            try:
                reckoned = f"{head}={p.write(reckon(F(found[2]), found[3], F(found[4])))}\n"
            except (AssertionError, ValueError):
                pass
        out.append((line, truth if alive else None, reckoned))
        alive = alive and line == truth
    return out


def sampled_game(numbers, text):
    out, left, alive = [], sorted(numbers), True
    for line in text.splitlines(keepends=True):
        found = GAME.fullmatch(line)
        if line.startswith("\\boxed{"):
            out.append((line, line if alive else None, None))
            continue
        if not found:
            out.append((None, line, None))
            continue
        a, sign, b = int(found[2]), found[3], int(found[4])
        rest, truth, reckoned = list(left), "?", None
        y = reckon(F(a), sign, F(b))
        if a in rest:
            rest.remove(a)
            if b in rest:
                rest.remove(b)
                if y.denominator == 1 and y >= 0:
                    rest = sorted(rest + [int(y)])
                    reckoned = f"{found[1]}{y}, left {','.join(map(str, rest))}\n"
                    truth = reckoned if solvable(tuple(rest)) else found[1]
                else:
                    truth = found[1]
        out.append((line, truth if alive else None, reckoned))
        alive = alive and line == truth
        left = sorted(map(int, filter(None, found[6].split(","))))
    return out


@lru_cache(1 << 18)
def solvable(left):
    return len(left) <= 4 and game24.ways(tuple(map(F, left))) > 0


def easy(p, step):
    return p.kind.name == "whole" and step[1] in "+-"


def misreckoned(rng, kind, step):
    """A wrong result as the policy makes it: off by little, or one digit wrong."""
    y = step[3]
    for _ in range(30):
        if rng.random() < 0.4:
            wrong = long.slip(rng, kind, y)
        elif kind.name == "fraction":
            wrong = y + F(rng.randint(-9, 9), y.denominator if rng.random() < 0.8 else rng.choice([2, 3, 4, 5, 6, 8, 12]))
        else:
            text = kind.write(y)
            at = rng.choice([i for i, c in enumerate(text) if c.isdigit()])
            digit = str((int(text[at]) + rng.choice([-3, -2, -1, -1, 1, 1, 2, 3, 5])) % 10)
            wrong = F(text[:at] + digit + text[at + 1:])
        if wrong != y and kind.fits(wrong):
            return wrong
    return y + 1


def stumbled_words(p, rng):
    """Lines of a solution with so many mistakes as the policy makes, each carried through."""
    mistakes = set(rng.choices(range(len(p.steps)), [1 if easy(p, s) else 3 for s in p.steps], k=rng.choices([0, 1, 2], [35, 50, 15])[0]))
    numbers = [v for s in p.steps for v in (s[0], s[2])] + 3 * p.spoilers
    out, values, written = [], {}, []
    steps = p.steps
    if len(steps) > 2 and rng.random() < 0.04:
        at = rng.randrange(len(steps))
        steps = steps[:at] + steps[at + 1:]
    for k, (a, sign, b, y) in enumerate(steps):
        step = (values.get(a, a), sign, values.get(b, b))
        read_wrong = k in mistakes and rng.random() < 0.2
        if read_wrong:
            swap = rng.random() < 0.25 and sign in "+-"
            step = (step[0], "-" if sign == "+" else "+", step[2]) if swap else (step[0], sign, rng.choice(numbers))
        a, sign, b = step
        r = reckon(a, sign, b)
        exact = p.kind.fits(r)
        if not exact:  # the policy writes some number then
            r = F(max(1, min(round(r), 999)))
        said = r if exact and (read_wrong or k not in mistakes) else misreckoned(rng, p.kind, (a, sign, b, r))
        written.append((a, sign, b, r if exact else None, said))
        if said != y:
            values[y] = said
        else:
            values.pop(y, None)
    alive = True
    for k, (a, sign, b, r, said) in enumerate(written, 1):
        line = f"Step {k}: {p.line((a, sign, b, said))}\n"
        truth = f"Step {k}: {p.line(p.steps[k - 1])}\n"
        out.append((line, truth if alive else None, None if r is None else f"Step {k}: {p.line((a, sign, b, r))}\n"))
        alive = alive and line == truth
    box = f"\\boxed{{{p.write(written[-1][4])}}}"
    true_next = f"\\boxed{{{p.write(p.answer)}}}" if len(written) == len(p.steps) else f"Step {len(written) + 1}: "
    out.append((box, true_next if alive else None, box))
    return out


def sums(make, rng):
    """Lines of sums alone, hard ones more often, some wrong."""
    lines = []
    while len(lines) < 9:
        p = make()
        for step in p.steps:
            if easy(p, step) and rng.random() < 0.7:
                continue
            said = misreckoned(rng, p.kind, step) if rng.random() < 0.4 else step[3]
            lines.append((p.line(step, said), p.line(step)))
    rng.shuffle(lines)
    return [(f"Step {k}: {said}\n", f"Step {k}: {right}\n", f"Step {k}: {right}\n") for k, (said, right) in enumerate(lines[:9], 1)]
